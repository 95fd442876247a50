"""How long the engine may wait for what."""

from dataclasses import dataclass, field

from shared.providers import Providers, parse_providers
from shared.settings import SenderSettings


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of the engine, in seconds. What a person may set has no default here: see `engine_config`.

    The reply to the final dot has no separate limit: a short one creates duplicates (RFC 5321, 4.5.3.2.6). It may
    take all that is left of `email_hard_seconds`, which also bounds every other wait.
    """

    #: For each of: TCP with implicit TLS and the banner, EHLO, STARTTLS, AUTH.
    connect_seconds: float
    #: For each reply before the final dot.
    reply_seconds: float
    #: After this time an email starts no further step and tries no further relay.
    email_soft_seconds: float
    #: After this time the email's connection is aborted. At least `email_soft_seconds`.
    email_hard_seconds: float
    #: How often idle and aged connections are looked for.
    reap_seconds: float
    #: First rest of a relay that cannot be used; doubles each time.
    rest_seconds: float
    rest_max_seconds: float
    #: Who runs the mailboxes of a domain.
    providers: Providers = field(default_factory=Providers)
    #: First rest of a provider at a relay; doubles each time.
    provider_rest_seconds: float = 60.0
    #: A connection that waits longer than this, and than 10 usual replies, is replaced.
    stall_seconds: float = 0.05
    #: A relay with a weight is preferred for so long at a time.
    turn_seconds: float = 2.0
    #: For the reply to QUIT.
    quit_seconds: float = 2.0


def engine_config(settings: SenderSettings) -> EngineConfig:
    """The limits that `settings` give."""
    return EngineConfig(
        connect_seconds=settings.smtp_connect_seconds,
        reply_seconds=settings.smtp_reply_seconds,
        email_soft_seconds=settings.email_soft_seconds,
        email_hard_seconds=settings.email_hard_seconds,
        reap_seconds=settings.smtp_cleanup_seconds,
        rest_seconds=settings.relay_rest_seconds,
        rest_max_seconds=settings.relay_rest_max_seconds,
        providers=parse_providers(settings.providers, settings.provider_limits),
        provider_rest_seconds=settings.provider_rest_seconds,
    )
