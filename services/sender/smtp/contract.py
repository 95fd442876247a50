"""What the delivery engine and its caller agree on.

The caller (`services.sender.feed`) owns batches, leases and results. The engine owns relays, connections and replies.
The engine *pulls*: a connection that can take an email asks the source for one. So the caller decides at that moment
whether an email may start, and renders few that cannot leave yet.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from shared.faults.meaning import Consequence
from shared.relays.replies import Stage


class Verdict(StrEnum):
    """How an attempt ended."""

    ACCEPTED = "accepted"  # 250 after the final dot: the relay has taken responsibility (RFC 5321, 6.1)
    TRANSIENT = "transient"  # try this recipient again later; spends one of its attempts
    PERMANENT = "permanent"  # this recipient is refused for good
    HELD = "held"  # its provider refuses us for now; try again later, spends no attempt
    SENDER_REFUSED = "sender_refused"  # the campaign's sender is refused: pauses the campaign
    RELAY_FAULT = "relay_fault"  # no relay could be used; spends no attempt
    THROTTLED = "throttled"  # the relay asks us to slow down; spends no attempt
    AMBIGUOUS = "ambiguous"  # body bytes left and no reply came: delivered or not, it cannot be known
    NOT_STARTED = "not_started"  # withdrawn before any body byte left (gate closed, deadline, drain)


class Outcome(NamedTuple):
    """The result of one attempt at one email."""

    verdict: Verdict
    relay: str = ""
    stage: Stage | None = None
    code: int | None = None
    enhanced: str | None = None
    reply: str = ""
    queue_id: str | None = None
    #: What follows from the reply (`shared/faults`); None where no relay has refused this email.
    consequence: Consequence | None = None
    #: HELD: how long the provider rests at this relay; 0 if that is not known.
    hold_seconds: float = 0.0
    #: From the first SMTP step of this email to its verdict.
    seconds: float = 0.0


Body = bytes | tuple[bytes, ...]
"""A message, perhaps in pieces, so that emails of one campaign share its attachments."""


class Job(Protocol):
    """One email: an envelope, and a body that is made when it is needed."""

    @property
    def mail_from(self) -> str: ...
    @property
    def token_from(self) -> str:
        """MAIL FROM that names this email, for relays that let it through; empty: there is none."""
        ...

    @property
    def rcpt_to(self) -> str: ...
    @property
    def smtputf8(self) -> bool: ...

    def body(self) -> Body | Awaitable[Body]:
        """The whole message: CRLF line ends only, dot-stuffed, ending in CRLF, without the final dot.

        An awaitable if making it takes a thread (signing)."""
        ...

    @property
    def is_timed(self) -> bool:
        """A yes of `may_send_body` counts from this instant: the body is written before anything else is done."""
        ...

    def may_send_body(self, relay: str) -> bool | Awaitable[bool]:
        """Asked after the 354 of this relay and immediately before the first body byte. False withdraws the email.

        An awaitable if an intent must be committed first (at_most_once), or if it waits for its time under a limit.
        After an awaited yes it is asked again."""
        ...


class Source(Protocol):
    """Where connections get their emails, and report their outcomes."""

    def take(self, relay: str) -> Job | None:
        """The next email that may start at this instant, to be sent over this relay if possible, or None. Never
        blocks."""
        ...

    async def ready(self) -> None:
        """Returns when `take` may again return an email."""
        ...

    def done(self, job: Job, outcome: Outcome) -> None:
        """Exactly once for every job that was taken. Never blocks, never raises."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderRest:
    """A provider that rests at one relay."""

    name: str
    #: The refusal that led to the rest, without addresses.
    reason: str
    resting_for_seconds: float


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The state of one relay."""

    name: str
    state: str  # "up", "slow" (throttled) or "resting"
    connections: int
    in_flight: int
    reason: str = ""
    resting_for_seconds: float = 0.0
    #: Connections that carry an email. One may have several in flight.
    busy: int = 0
    #: Connections it may open now.
    connections_limit: int = 0
    #: The providers that rest longest, at most as many as the heartbeat carries.
    resting_providers: tuple[ProviderRest, ...] = ()
