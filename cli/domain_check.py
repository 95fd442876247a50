"""A domain, checked from this machine: its DNS, our DKIM keys, our relays."""

from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from cli.settings import LocalSettings
from cli.tenants import bounce_domain_of
from shared.addresses import parse_domain
from shared.deliverability.check import Egress, Finding, Setup, Signature, examine_domain
from shared.deliverability.dns import Dns
from shared.dkim_keys import find_keys, load_key
from shared.errors import ConfigurationError, VashSenderError
from shared.relays.url import relays_of


async def examine(config: LocalSettings, domain: str, envelope: str = "") -> list[Finding]:
    """Raises AddressError for a wrong domain, ConfigurationError for a wrong setting."""
    domain = parse_domain(domain)
    setup = Setup(
        domain=domain,
        envelope_domain=parse_domain(envelope) if envelope else await _bounce_domain(config, domain) or domain,
        signatures=_signatures(config, domain),
        egress=_egress(config),
        public_url=config.public_url,
    )
    return await examine_domain(Dns(config.dns_servers), setup)


async def _bounce_domain(config: LocalSettings, domain: str) -> str | None:
    """None, too, if the ledger cannot be read: the rest can be checked without it."""
    try:
        return await bounce_domain_of(config, domain)
    except (VashSenderError, SQLAlchemyError, OSError):
        return None


def _signatures(config: LocalSettings, domain: str) -> Sequence[Signature]:
    """The key that signs, which is the last one."""
    keys = [key for key in find_keys(config.dkim_dir) if key.domain == domain] if config.dkim_dir else []
    return [Signature(key.selector, load_key(key).public_key()) for key in keys[-1:]]


def _egress(config: LocalSettings) -> Sequence[Egress] | None:
    if not config.relay_urls:
        return None
    try:
        return [Egress(relay.name, relay.egress) for relay in relays_of(config)]
    except ConfigurationError:
        return None  # `doctor` says what is wrong with them
