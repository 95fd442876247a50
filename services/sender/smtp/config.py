"""What the engine is told: where the relays are, and how long it may wait for what. Plain data, no environment."""

import socket
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

SUBMISSION_PORT = 587
IMPLICIT_TLS_PORT = 465
PLAIN_PORT = 25


class Tls(StrEnum):
    """How the dialogue is encrypted. There is no "if offered": that can be stripped by whoever sits in between."""

    NONE = "none"
    STARTTLS = "starttls"  # RFC 3207; a relay that does not offer it is not used
    IMPLICIT = "implicit"  # RFC 8314


class RelayUrlError(ValueError):
    """A relay's address cannot be used. The message says which part and what is expected there."""


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """One relay: a server that takes emails and delivers them further.

    At most `connections` carry emails at a time. One that waits unusually long for a reply is replaced, so that a
    single hanging email does not cost a connection's worth of throughput; `spare_connections` bounds how many, but for
    those where the relay's other replies prove that it is the email that hangs.
    """

    name: str
    host: str
    port: int = PLAIN_PORT
    tls: Tls = Tls.NONE
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    verify: bool = True
    ca_file: Path | None = None  # the only authority to trust
    own_ca_file: Path | None = None  # one to trust besides the system's
    helo: str = field(default_factory=socket.gethostname)
    connections: int = 8
    spare_connections: int = 32
    max_emails_per_connection: int = 1024
    idle_seconds: float = 60.0
    max_age_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if self.connections < 1 or self.max_emails_per_connection < 1 or self.spare_connections < 0:
            raise ValueError(
                f"relay {self.name}: connections and max_emails_per_connection are at least 1, spare_connections 0"
            )
        if (self.username is None) != (self.password is None):
            raise ValueError(f"relay {self.name}: a user name and a password come together")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of the dialogue. All in seconds; each phase is also bounded by the email's own hard limit.

    The wait for the reply to the final dot has no limit of its own: a short one manufactures duplicates
    (RFC 5321, 4.5.3.2.6), so it may use all that is left of `email_hard_seconds`.
    """

    connect_seconds: float = 30.0  # TCP, implicit TLS, and the banner
    ehlo_seconds: float = 30.0
    tls_seconds: float = 30.0
    auth_seconds: float = 30.0
    mail_seconds: float = 60.0
    rcpt_seconds: float = 120.0
    data_seconds: float = 120.0
    email_soft_seconds: float = 240.0  # no further step or relay for this email
    email_hard_seconds: float = 300.0  # abort, report
    reap_seconds: float = 600.0  # how often idle and aged connections are closed
    rest_seconds: float = 1.0  # first rest of a relay that cannot be used; doubles
    rest_max_seconds: float = 300.0
    stall_seconds: float = 0.05  # a connection that waits longer than this, and than 10 usual replies, is replaced
    quit_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.email_soft_seconds <= self.email_hard_seconds:
            raise ValueError("email_soft_seconds must be above 0 and at most email_hard_seconds")


def parse_relay(url: str, *, password: str | None = None, name: str | None = None) -> RelayConfig:
    """The relay that `url` describes.

    smtp://HOST needs STARTTLS, port 587; smtp://HOST?tls=none speaks in the clear, port 25; smtps://HOST is TLS from
    the first byte, port 465. A user may stand before the host; the password comes separately, or in the URL.
    Options: tls, verify=no, ca_file, helo, name, connections, spare_connections, max_emails_per_connection,
    idle_seconds, max_age_seconds. Raises `RelayUrlError`, whose message never holds the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RelayUrlError(f"a relay's URL is smtp://[USER@]HOST[:PORT][?OPTIONS]: {error}") from None
    if parts.scheme not in ("smtp", "smtps"):
        raise RelayUrlError(f"a relay's URL begins with smtp:// or smtps://, not {parts.scheme or 'nothing'!r}")
    if not parts.hostname:
        raise RelayUrlError("a relay's URL names a host: smtp://HOST")
    if parts.path not in ("", "/") or parts.fragment:
        raise RelayUrlError("a relay's URL ends after the port and the options: no path, no fragment")
    options = _options(parts.query)

    tls = _tls(parts.scheme, options.pop("tls", None))
    host = parts.hostname
    username = unquote(parts.username) if parts.username else None
    secret = password if password is not None else (unquote(parts.password) if parts.password else None)
    if username is None:
        secret = None
    elif secret is None:
        raise RelayUrlError(f"relay {host}: user {username!r} has no password")
    elif tls is Tls.NONE and not _is_loopback(host):
        raise RelayUrlError(f"relay {host}: a password never travels in the clear; drop tls=none or use smtps://")

    default_port = {Tls.NONE: PLAIN_PORT, Tls.STARTTLS: SUBMISSION_PORT, Tls.IMPLICIT: IMPLICIT_TLS_PORT}[tls]
    relay = RelayConfig(
        name=options.pop("name", "") or name or host,
        host=host,
        port=port or default_port,
        tls=tls,
        username=username,
        password=secret,
        verify=_flag(options, "verify", default=True),
        ca_file=Path(ca_file) if (ca_file := options.pop("ca_file", "")) else None,
        helo=options.pop("helo", "") or socket.gethostname(),
        connections=_number(options, "connections", 8),
        spare_connections=_number(options, "spare_connections", 32, least=0),
        max_emails_per_connection=_number(options, "max_emails_per_connection", 1024),
        idle_seconds=_number(options, "idle_seconds", 60),
        max_age_seconds=_number(options, "max_age_seconds", 1800),
    )
    if options:
        raise RelayUrlError(f"relay {host}: unknown option {', '.join(sorted(options))}")
    return relay


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise RelayUrlError("a relay's options read NAME=VALUE&NAME=VALUE") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise RelayUrlError("each option of a relay's URL is given once")
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


def _flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    value = options.pop(name, "yes" if default else "no")
    if value not in ("yes", "no"):
        raise RelayUrlError(f"{name} is yes or no, not {value!r}")
    return value == "yes"


def _number(options: dict[str, str], name: str, default: int, *, least: int = 1) -> int:
    value = options.pop(name, str(default))
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise RelayUrlError(f"{name} is a whole number from {least} up, not {value!r}")
    return int(value)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
