"""What is known about a relay before a connection is opened."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from shared import tls


class Tls(StrEnum):
    """How the dialogue is encrypted. There is no "if offered": a third party on the way could strip the offer."""

    NONE = "none"
    STARTTLS = "starttls"  # RFC 3207; a relay that does not offer it is not used
    IMPLICIT = "implicit"  # RFC 8314


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password for AUTH (RFC 4954)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How many emails all senders together may send over a relay; None: as many as there are."""

    emails_per_second: float | None = None
    emails_per_hour: int | None = None
    emails_per_day: int | None = None
    #: Emails on the first day, the factor for each further day, the emails per day at which it is over.
    warmup: tuple[int, float, int] | None = None


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """One relay. Defaults come from the settings: see `shared.relays.url`."""

    #: Unique among the relays of an installation; appears in logs, metrics and the ledger.
    name: str
    host: str
    port: int
    tls: Tls
    #: None: no AUTH.
    login: Login | None
    #: Whether certificate and host name are verified.
    verify: bool
    #: The only authority to trust (PEM). None: the system's authorities and `extra_ca_file`.
    ca_file: Path | None
    #: An authority to trust besides the system's; ignored if `ca_file` is set.
    extra_ca_file: Path | None
    #: Our name in EHLO.
    helo: str
    #: Connections that carry emails at a time, at most.
    connections: int
    #: Further connections, at most, that replace stalled ones, so that a hanging email costs little throughput.
    spare_connections: int
    #: A connection is closed after this many emails,
    max_emails_per_connection: int
    #: after this much time without an email,
    idle_seconds: float
    #: and at this age.
    max_age_seconds: float
    #: The group it belongs to; empty: it serves campaigns without a group.
    group: str = ""
    #: Relays with a weight share the emails by it; 0: it has none.
    weight: int = 0
    #: Its limits if its URL sets any; else those in the ledger stay as they are.
    limits: RelayLimits | None = None
    #: Whether MAIL FROM with a token may be used: submission services often rewrite or refuse it.
    verp: bool = False
    #: The addresses its mail leaves from, for the check of SPF. Empty: not known.
    egress: tuple[IPv4Address | IPv6Address, ...] = ()

    def tls_context(self) -> ssl.SSLContext | None:
        """A new TLS context, at least TLS 1.2; None for a relay without TLS. Connections of one relay share one.

        Raises ConfigurationError if an authority cannot be used."""
        if self.tls is Tls.NONE:
            return None
        context = tls.trusting(self.ca_file)
        if self.extra_ca_file is not None and self.ca_file is None:
            context.load_verify_locations(self.extra_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
