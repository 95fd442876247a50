"""`VASHSENDER_RELAY_GROUPS`: the groups of relays, and the domains of From whose campaigns use them.

A relay belongs to one group. A campaign uses the relays of its group only; those of no group serve all other campaigns.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.errors import ConfigurationError

NO_GROUP = ""
"""The group of relays and campaigns that name none."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SETTING = "VASHSENDER_RELAY_GROUPS"


@dataclass(frozen=True, slots=True)
class RelayGroups:
    """The groups there are."""

    names: tuple[str, ...] = ()
    #: The group of campaigns that name none, by the domain of their From.
    by_domain: Mapping[str, str] = field(default_factory=dict)

    def group_of(self, named: str | None, from_email: str) -> str:
        """The group of a campaign: the one it names, else that of the domain of its From, else NO_GROUP."""
        return named or self.by_domain.get(from_email.rpartition("@")[2].lower(), NO_GROUP)


def parse_groups(setting: str) -> RelayGroups:
    """`bulk=news.example.com,promo.example.com vip`: two groups, and two domains of the first.

    Raises ConfigurationError."""
    names: list[str] = []
    by_domain: dict[str, str] = {}
    for entry in setting.split():
        name, _, domains = entry.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{_SETTING}: a group's name has lower-case letters, digits, - and _, at most 40; not {name!r}"
            )
        if name in names:
            raise ConfigurationError(f"{_SETTING}: {name} is there twice; name it once, with all of its domains")
        names.append(name)
        for domain in filter(None, domains.lower().split(",")):
            if domain in by_domain:
                raise ConfigurationError(f"{_SETTING}: {domain} belongs to {by_domain[domain]} and to {name}")
            by_domain[domain] = name
    return RelayGroups(tuple(names), by_domain)
