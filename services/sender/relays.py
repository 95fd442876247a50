"""From settings to the engine's configuration."""

from dataclasses import replace

from services.sender.smtp.config import EngineConfig, RelayConfig, RelayUrlError, parse_relay
from shared.errors import ConfigurationError
from shared.settings import SenderSettings

DEVELOPMENT_RELAY = "smtp://127.0.0.1:8703?tls=none&name=mailbox"
"""The development mailbox: where mail goes when a development installation names no relay."""


def relays_of(settings: SenderSettings) -> list[RelayConfig]:
    """The relays in order of preference. Raises ConfigurationError, without any password."""
    urls = settings.relay_urls
    if not urls:
        if settings.environment != "development":
            raise ConfigurationError(
                "VASHSENDER_RELAYS is empty: name a relay such as smtp://user@smtp.example.com:587"
            )
        urls = (DEVELOPMENT_RELAY,)
    relays: list[RelayConfig] = []
    for url in urls:
        try:
            relay = parse_relay(url)
        except RelayUrlError as error:
            raise ConfigurationError(f"VASHSENDER_RELAYS: {error}") from None
        relays.append(_with_settings(relay, url, settings, taken={other.name for other in relays}))
    return relays


def _with_settings(relay: RelayConfig, url: str, settings: SenderSettings, taken: set[str]) -> RelayConfig:
    """What the URL does not say comes from the settings; two relays on one host get names that differ."""
    given = url.partition("?")[2]
    defaults = {
        "connections": settings.smtp_connections,
        "max_emails_per_connection": settings.smtp_emails_per_connection,
        "idle_seconds": settings.smtp_idle_seconds,
        "max_age_seconds": settings.smtp_age_seconds,
    }
    missing = {name: value for name, value in defaults.items() if f"{name}=" not in given}
    name = relay.name if relay.name not in taken else f"{relay.name}:{relay.port}"
    return replace(relay, name=name, own_ca_file=settings.ca_file, **missing)  # type: ignore[arg-type]


def engine_config(settings: SenderSettings) -> EngineConfig:
    return EngineConfig(
        connect_seconds=settings.smtp_connect_seconds,
        ehlo_seconds=settings.smtp_connect_seconds,
        tls_seconds=settings.smtp_connect_seconds,
        auth_seconds=settings.smtp_connect_seconds,
        mail_seconds=settings.smtp_reply_seconds,
        rcpt_seconds=settings.smtp_reply_seconds,
        data_seconds=settings.smtp_reply_seconds,
        email_soft_seconds=settings.email_soft_seconds,
        email_hard_seconds=settings.email_hard_seconds,
        reap_seconds=settings.smtp_cleanup_seconds,
        rest_seconds=settings.relay_rest_seconds,
        rest_max_seconds=settings.relay_rest_max_seconds,
    )
