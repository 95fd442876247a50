"""The provider of a recipient's mailbox, by its domain: a table, extended by settings. DNS is never asked.

Limits are what a provider is known to accept from one sender. They hold only where settings ask for them, because most
relays see to that themselves. `source` names where a number comes from; a listed provider without a published number
has the default. An unlisted domain is its own provider, without limits: how much its server takes is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from shared.errors import ConfigurationError

DEFAULT_IN_FLIGHT = 10
DEFAULT_EMAILS_PER_SECOND = 100.0
"""KumoMTA's defaults for a domain of which it knows nothing (`assets/policy-extras/shaping.toml`)."""

ALL_OTHERS = "*"
"""In settings: the limits of every provider that is not named."""

TABLE = "table"
"""In settings: the limits of the table hold."""


class ProviderLimits(NamedTuple):
    """What all senders together may do to one provider over one relay; None: no limit."""

    in_flight: int | None
    emails_per_second: float | None


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider of mailboxes."""

    name: str
    domains: tuple[str, ...]
    #: Emails on their way to it over one relay at one time, from all senders together; None: no limit.
    in_flight: int | None = DEFAULT_IN_FLIGHT
    #: That begin over one relay, from all senders together; None: no limit.
    emails_per_second: float | None = DEFAULT_EMAILS_PER_SECOND
    #: Where the numbers come from, if they are not the defaults.
    source: str = ""


SHAPING = "KumoMTA, assets/policy-extras/shaping.toml"

PROVIDERS: Sequence[Provider] = (
    Provider("gmail", ("gmail.com", "googlemail.com"), 5, source=SHAPING),
    Provider(
        "outlook",
        (
            *("outlook.com", "hotmail.com", "live.com", "msn.com", "windowslive.com", "passport.com"),
            *("outlook.de", "outlook.fr", "outlook.es", "outlook.it", "outlook.co.uk", "outlook.com.br", "outlook.jp"),
            *("hotmail.de", "hotmail.fr", "hotmail.es", "hotmail.it", "hotmail.co.uk", "hotmail.com.br", "hotmail.nl"),
            *("live.de", "live.fr", "live.it", "live.nl", "live.co.uk", "live.se", "live.dk", "live.no", "live.ru"),
        ),
        5,
        source=f"{SHAPING}; https://sendersupport.olc.protection.outlook.com/pm/Policies",
    ),
    Provider(
        "yahoo",
        (
            *(
                "yahoo.com",
                "ymail.com",
                "rocketmail.com",
                "myyahoo.com",
                "aol.com",
                "aim.com",
                "verizon.net",
                "netscape.net",
            ),
            *("yahoo.co.uk", "yahoo.de", "yahoo.fr", "yahoo.es", "yahoo.it", "yahoo.ca", "yahoo.in", "yahoo.co.in"),
            *(
                "yahoo.com.br",
                "yahoo.com.mx",
                "yahoo.com.ar",
                "yahoo.com.au",
                "yahoo.com.sg",
                "yahoo.com.hk",
                "yahoo.ie",
            ),
            *("yahoo.com.tw", "yahoo.com.ph", "yahoo.com.vn", "yahoo.com.tr", "yahoo.co.id", "yahoo.gr", "yahoo.se"),
            *(
                "yahoo.ro",
                "yahoo.pl",
                "yahoo.nl",
                "yahoo.dk",
                "yahoo.no",
                "yahoo.fi",
                "yahoo.at",
                "yahoo.be",
                "yahoo.cz",
            ),
            *(
                "aol.de",
                "aol.fr",
                "aol.co.uk",
                "sbcglobal.net",
                "att.net",
                "bellsouth.net",
                "ameritech.net",
                "pacbell.net",
            ),
        ),
    ),
    Provider("icloud", ("icloud.com", "me.com", "mac.com", "privaterelay.appleid.com"), 10, source=SHAPING),
    Provider("mail.ru", ("mail.ru", "bk.ru", "list.ru", "inbox.ru", "internet.ru", "xmail.ru")),
    Provider(
        "yandex",
        (
            *("yandex.ru", "ya.ru", "yandex.com", "narod.ru"),
            *("yandex.by", "yandex.kz", "yandex.ua", "yandex.uz", "yandex.com.tr"),
        ),
    ),
    Provider("rambler", ("rambler.ru", "lenta.ru", "autorambler.ru", "myrambler.ru", "ro.ru", "rambler.ua")),
    Provider(
        "gmx",
        (
            *(
                "gmx.de",
                "gmx.net",
                "gmx.at",
                "gmx.ch",
                "gmx.com",
                "gmx.fr",
                "gmx.es",
                "gmx.it",
                "gmx.co.uk",
                "gmx.us",
                "gmx.eu",
            ),
            *(
                "gmx.org",
                "gmx.info",
                "gmx.biz",
                "gmx.li",
                "gmx.se",
                "gmx.tm",
                "web.de",
                "email.de",
                "mail.com",
                "usa.com",
            ),
        ),
    ),
    Provider("t-online", ("t-online.de", "magenta.de")),
    Provider("freenet", ("freenet.de", "freenet.ag", "justmail.de")),
    Provider("orange", ("orange.fr", "wanadoo.fr", "voila.fr"), 2, source=f"{SHAPING}; https://postmaster.orange.fr"),
    Provider("laposte", ("laposte.net",), 2, source="as Orange: its replies carry the same codes"),
    Provider("sfr", ("sfr.fr", "neuf.fr", "cegetel.net", "club-internet.fr", "numericable.fr", "9online.fr")),
    Provider("free", ("free.fr", "aliceadsl.fr")),
    Provider("libero", ("libero.it", "virgilio.it", "iol.it", "inwind.it", "blu.it", "giallo.it")),
    Provider("seznam", ("seznam.cz", "email.cz", "post.cz", "spoluzaci.cz")),
    Provider("comcast", ("comcast.net", "xfinity.com"), 25, source=f"{SHAPING}, provided by Comcast"),
    Provider("spectrum", ("charter.net", "spectrum.net", "rr.com", "twc.com", "brighthouse.com", "roadrunner.com")),
    Provider("cox", ("cox.net",), 10, source="https://www.cox.com/residential/support/email-error-codes.html (CXCNCT)"),
    Provider("qq", ("qq.com", "vip.qq.com", "foxmail.com")),
    Provider("netease", ("163.com", "126.com", "yeah.net", "vip.163.com", "vip.126.com", "188.com")),
    Provider("zoho", ("zoho.com", "zohomail.com", "zoho.eu", "zoho.in")),
    Provider("proton", ("proton.me", "protonmail.com", "protonmail.ch", "pm.me")),
)


class Providers:
    """The table, with what settings add: domains of known providers (a company's own domain that is at Gmail) or of new
    ones, and limits by provider. The limits of the table hold only with `with_table`; an unlisted provider has those of
    ALL_OTHERS.

    Raises ConfigurationError where an added domain already belongs to another provider."""

    def __init__(
        self,
        added: Mapping[str, str] | None = None,
        limits: Mapping[str, ProviderLimits] | None = None,
        *,
        with_table: bool = False,
    ) -> None:
        given = dict(limits or {})
        self._others = given.pop(ALL_OTHERS, ProviderLimits(None, None))
        by_name = {provider.name: provider if with_table else _unlimited(provider) for provider in PROVIDERS}
        by_domain = {domain: provider.name for provider in PROVIDERS for domain in provider.domains}
        for domain, name in (added or {}).items():
            known = by_domain.get(domain)
            if known is not None and known != name:
                raise ConfigurationError(f"the domain {domain} belongs to the provider {known}, not to {name}")
            by_name.setdefault(name, Provider(name, (), *self._others))
            by_domain[domain] = name
        for name, limit in given.items():
            by_domain.setdefault(name, name)  # a provider that the table does not name is a domain
            by_name[by_domain[name]] = replace(
                by_name.get(by_domain[name]) or Provider(name, (name,)),
                in_flight=limit.in_flight,
                emails_per_second=limit.emails_per_second,
            )
        self._by_domain = {domain: by_name[name] for domain, name in by_domain.items()}

    @property
    def with_rates(self) -> Sequence[Provider]:
        """The known providers with a limit per second."""
        return [one for one in {one.name: one for one in self._by_domain.values()}.values() if one.emails_per_second]

    def of(self, domain: str) -> Provider:
        """The provider of a domain in lower case."""
        return self._by_domain.get(domain) or Provider(domain, (domain,), *self._others)

    def domains_of(self, name: str) -> Sequence[str]:
        """The domains of a provider: those that are known, or the one that it is named for."""
        known = [domain for domain, provider in self._by_domain.items() if provider.name == name]
        return known or [name]

    def limited(self, domain: str) -> Provider | None:
        """The provider of a domain, if it has a limit: one look-up in a dict."""
        provider = self._by_domain.get(domain)
        if provider is None:
            return None if self._others.in_flight is None else self.of(domain)
        return provider if provider.in_flight is not None or provider.emails_per_second is not None else None

    def name_of(self, domain: str) -> str:
        """The provider's name alone: one look-up in a dict."""
        provider = self._by_domain.get(domain)
        return provider.name if provider is not None else domain


def parse_providers(text: str, limits: str = "") -> Providers:
    """The table with domains added as `example.edu=gmail example.net=our-hosting`, and limits as `gmail=20:500` (emails
    in flight and per second), `gmail=:500`, `gmail=off`, `*=10`, `table`. Raises ConfigurationError."""
    added: dict[str, str] = {}
    for entry in text.split():
        domain, _, name = entry.lower().partition("=")
        if not domain or not name:
            raise ConfigurationError(f"providers reads DOMAIN=PROVIDER, separated by spaces, not {entry!r}")
        added[domain] = name
    entries = limits.lower().split()
    named = dict(_limit_of(entry) for entry in entries if entry != TABLE)
    return Providers(added, named, with_table=TABLE in entries)


def _unlimited(provider: Provider) -> Provider:
    return replace(provider, in_flight=None, emails_per_second=None)


def _limit_of(entry: str) -> tuple[str, ProviderLimits]:
    name, equals, value = entry.partition("=")
    in_flight, _, per_second = value.partition(":")
    try:
        if value == "off":
            limits = ProviderLimits(None, None)
        else:
            limits = ProviderLimits(
                int(in_flight) if in_flight else None,
                float(per_second) if per_second else None,
            )
        known = [number for number in limits if number is not None]
        good = bool(name and equals and (known or value == "off")) and all(0 < number < inf for number in known)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError(
            f"provider_limits reads PROVIDER=IN_FLIGHT:PER_SECOND, PROVIDER=off or {TABLE}, separated by spaces,"
            f" not {entry!r}"
        )
    if name == ALL_OTHERS and limits.emails_per_second is not None:
        raise ConfigurationError(f"provider_limits: {ALL_OTHERS} takes emails in flight only, such as {ALL_OTHERS}=10")
    return name, limits
