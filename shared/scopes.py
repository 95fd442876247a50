"""What an API key may do. The names never change; docs/projects.md says what each allows."""

from collections.abc import Iterable
from enum import StrEnum

from shared.errors import DataError


class Scope(StrEnum):
    CAMPAIGNS_READ = "campaigns:read"
    CAMPAIGNS_WRITE = "campaigns:write"
    MESSAGES_SEND = "messages:send"
    AUDIENCE_WRITE = "audience:write"
    WEBHOOKS_WRITE = "webhooks:write"
    #: The installation: every project, its keys, its limits, and the machinery.
    OPERATOR = "operator"


EVERY_SCOPE = frozenset(Scope)


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Raises DataError that lists the scopes there are."""
    try:
        return frozenset(Scope(name.strip()) for name in names)
    except ValueError as error:
        raise DataError(f"{error}: the scopes are {', '.join(Scope)}") from None
