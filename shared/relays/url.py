"""`VASHSENDER_RELAYS`: the URLs of the relays, checked, with the settings as defaults for their options."""

import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from shared import tls
from shared.errors import ConfigurationError
from shared.relay_groups import NO_GROUP
from shared.relays.config import Login, RelayConfig, RelayLimits, Tls
from shared.settings import SenderSettings

PORTS = {Tls.NONE: 25, Tls.STARTTLS: 587, Tls.IMPLICIT: 465}
SPARE_CONNECTIONS = 32


class RelayUrlError(ConfigurationError):
    """A relay's URL cannot be used. The message says which part is wrong and what is expected; never the password."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"VASHSENDER_RELAYS: {problem}")


def relays_of(settings: SenderSettings) -> list[RelayConfig]:
    """The relays in order of preference. In development, the development mailbox if none is set.

    Raises ConfigurationError."""
    urls = settings.relay_urls
    if not urls:
        if settings.environment != "development":
            raise ConfigurationError(
                "VASHSENDER_RELAYS is empty: name a relay such as smtp://user@smtp.example.com:587"
            )
        urls = (mailbox_url(settings),)
    relays: dict[str, RelayConfig] = {}
    for url in urls:
        relay = parse_relay(url, settings)
        if relay.name in relays:
            relay = replace(relay, name=f"{relay.name}:{relay.port}")
        if relay.name in relays:
            raise RelayUrlError(f"two relays are called {relay.name}: give one of them another name, with ?name=NAME")
        relays[relay.name] = relay
    if NO_GROUP not in (found := {relay.group for relay in relays.values()}):
        raise RelayUrlError("every relay has a group: campaigns without one need a relay without one")
    if missing := set(settings.groups.names) - found:
        raise RelayUrlError(
            f"no relay has group={min(missing)}, which VASHSENDER_RELAY_GROUPS names: give it to one of them"
        )
    return list(relays.values())


def mailbox_url(settings: SenderSettings) -> str:
    """The URL of the development mailbox. It never hangs, so it needs no spare connections."""
    return f"smtp://{settings.local_host}:{settings.mailbox_port}?tls=none&name=mailbox&spare_connections=0"


def parse_relay(url: str, settings: SenderSettings) -> RelayConfig:
    """The relay that `url` describes; `settings` decide what the URL leaves open. Raises RelayUrlError.

    smtp://HOST requires STARTTLS, port 587; smtp://HOST?tls=none is in the clear, port 25; smtps://HOST is TLS from the
    first byte, port 465. USER:PASSWORD@ may stand before the host. docs/settings.md lists the options.
    """
    parts = _split(url)
    host = parts.hostname
    if not host:
        raise RelayUrlError("a relay's URL names a host: smtp://HOST")
    options = _options(parts.query)
    tls_mode = _tls(parts.scheme, options.pop("tls", None))
    ca_file = options.pop("ca_file", "")
    relay = RelayConfig(
        name=options.pop("name", "") or host,
        host=host,
        port=parts.port or PORTS[tls_mode],
        tls=tls_mode,
        login=_login(parts, host, tls_mode),
        verify=_flag(options, "verify", default=True),
        ca_file=_authority(ca_file) if ca_file else None,
        extra_ca_file=settings.ca_file,
        helo=options.pop("helo", "") or socket.gethostname(),
        connections=int(_number(options, "connections", settings.smtp_connections)),
        spare_connections=int(_number(options, "spare_connections", SPARE_CONNECTIONS, least=0)),
        max_emails_per_connection=int(
            _number(options, "max_emails_per_connection", settings.smtp_emails_per_connection)
        ),
        idle_seconds=_number(options, "idle_seconds", settings.smtp_idle_seconds),
        max_age_seconds=_number(options, "max_age_seconds", settings.smtp_age_seconds),
        group=_group(options.pop("group", ""), settings),
        weight=int(_number(options, "weight", 0)),
        limits=_limits(options),
        verp=_flag(options, "verp", default=False),
        egress=_egress(options.pop("egress", "")),
    )
    if options:
        raise RelayUrlError(f"relay {host}: unknown option {', '.join(sorted(options))}")
    return relay


def _group(name: str, settings: SenderSettings) -> str:
    if name and name not in settings.groups.names:
        raise RelayUrlError(f"group={name}: name this group in VASHSENDER_RELAY_GROUPS, so that campaigns can use it")
    return name


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is no port
    except ValueError as error:
        raise RelayUrlError(f"a relay's URL is smtp://[USER:PASSWORD@]HOST[:PORT][?OPTIONS]: {error}") from None
    if parts.scheme not in ("smtp", "smtps"):
        raise RelayUrlError(f"a relay's URL begins with smtp:// or smtps://, not {parts.scheme or 'nothing'!r}")
    if parts.path not in ("", "/") or parts.fragment:
        raise RelayUrlError("a relay's URL ends after the port and the options: no path, no fragment")
    return parts


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise RelayUrlError("write a relay's options as NAME=VALUE&NAME=VALUE") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise RelayUrlError("give each option of a relay's URL once")
    return options


def _tls(scheme: str, asked: str | None) -> Tls:
    if scheme == "smtps":
        if asked not in (None, Tls.IMPLICIT):
            raise RelayUrlError("smtps:// is TLS from the first byte; tls= has no other value there")
        return Tls.IMPLICIT
    try:
        return Tls(asked or Tls.STARTTLS)
    except ValueError:
        raise RelayUrlError(f"tls is none, starttls or implicit, not {asked!r}") from None


def _login(parts: SplitResult, host: str, tls_mode: Tls) -> Login | None:
    if not parts.username:
        return None
    user = unquote(parts.username)
    if not parts.password:
        raise RelayUrlError(f"relay {host}: user {user!r} has no password")
    if tls_mode is Tls.NONE and not _is_loopback(host):
        raise RelayUrlError(f"relay {host}: a password never travels in the clear; drop tls=none or use smtps://")
    return Login(user, unquote(parts.password))


def _authority(path: str) -> Path:
    try:
        tls.trusting(Path(path))
    except ConfigurationError as error:
        raise RelayUrlError(str(error)) from None
    return Path(path)


def _flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    value = options.pop(name, "yes" if default else "no")
    if value not in ("yes", "no"):
        raise RelayUrlError(f"{name} is yes or no, not {value!r}")
    return value == "yes"


def _number(options: dict[str, str], name: str, default: float, *, least: int = 1) -> float:
    value = options.pop(name, None)
    if value is None:
        return default
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise RelayUrlError(f"{name} is a whole number, at least {least}, not {value!r}")
    return int(value)


def _limits(options: dict[str, str]) -> RelayLimits | None:
    per_second, per_hour, per_day = (
        int(_number(options, f"emails_per_{unit}", 0)) or None for unit in ("second", "hour", "day")
    )
    limits = RelayLimits(per_second, per_hour, per_day, _warmup(options.pop("warmup", None)))
    return limits if limits != RelayLimits() else None


def _egress(value: str) -> tuple[IPv4Address | IPv6Address, ...]:
    try:
        return tuple(ip_address(address) for address in value.split(";") if address)
    except ValueError:
        raise RelayUrlError(f"egress is addresses such as 192.0.2.1;2001:db8::1, not {value!r}") from None


def _warmup(value: str | None) -> tuple[int, float, int] | None:
    """500:1.5:100000: 500 emails on the first day, 1.5 times as many on each further day, until 100,000 a day."""
    if value is None:
        return None
    try:
        start, growth, until = value.split(":")
        warmup = int(start), float(growth), int(until)
    except ValueError:
        warmup = 0, 0.0, 0
    if not (1 <= warmup[0] <= warmup[2] and 1 < warmup[1] <= 10):
        raise RelayUrlError(f"warmup is START:GROWTH:UNTIL, such as 500:1.5:100000, not {value!r}")
    return warmup


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
