"""Which events a service accepts: how large, with which values, from whose account.

The broker validates the property `user_id`: it is the account of the connection that published the message. Where each
service has its own account (`vashsender access new`), an event must come from a service that publishes it.
Release 0.1.0 does not name its account; VASHSENDER_NAMELESS_EVENTS says whether that is accepted.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from pydantic import ValidationError
from yarl import URL

from shared import events
from shared.broker_url import with_one_host
from shared.errors import DataError
from shared.plain_text import printable

LARGEST_BYTES = 1_000_000
"""Of an event's body. A heartbeat with as much as its fields may hold has about this length."""
ADMIN = "admin"
"""The operator's account, which publishes dead messages again."""
DEFAULT_ACCOUNT = "guest"
"""RabbitMQ's, if the URL names none."""

PUBLISHES: Mapping[str, Sequence[type[events.Event]]] = {
    "api": (events.CampaignRequested,),
    "dispatcher": (events.BatchReleased, events.BatchRequeued, events.CampaignFinished),
    "feedback": (),
    "sender": (events.BatchFinished, events.BatchRequeued, events.CampaignRequested, events.SenderHeartbeat),
    "watchdog": (events.BatchRequeued, events.CampaignRequested),
    "webhooks": (),
}
"""The events of each service."""

KEPT_BYTES = 10_000
"""Of the body of a refused event that is kept."""
KEPT_AT_ONCE = 20
KEPT_EVERY_SECONDS = 10.0
"""So many refused events are kept at once, and one more each time this has passed: `dead` must not fill with them."""

E = TypeVar("E", bound=events.Event)


class RefusedEventError(DataError):
    """The event is impossible, or comes from an account that does not publish such events."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused event as it is kept in `dead`: what the headers of its message say."""

    #: The queue it came from.
    queue: str
    #: Its routing key.
    event: str
    reason: str
    #: The account that published it; empty if none was named.
    account: str = ""

    def headers(self) -> dict[str, Any]:
        return {f"refused-{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> "Refused | None":
        """What the headers of a message in `dead` say; None if it was not refused by a reader."""
        if "refused-event" not in headers:
            return None
        return cls(*(str(headers.get(f"refused-{each.name}", ""))[:500] for each in fields(cls)))


class Keeping:
    """How many refused events one process may still put into `dead`."""

    def __init__(self) -> None:
        self._left = float(KEPT_AT_ONCE)
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(KEPT_AT_ONCE, self._left + (now - self._at) / KEPT_EVERY_SECONDS)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def account_of(url: str) -> str | None:
    """The account with which a connection to this URL may publish; None if only the broker knows it."""
    parsed = URL(with_one_host(url))
    by_password = parsed.query.get("auth", "plain").lower() in ("plain", "amqplain")
    return (parsed.user or DEFAULT_ACCOUNT) if by_password else None


def read(event: type[E], body: bytes) -> E:
    """The event in a message. Raises RefusedEventError, whose text says what is wrong, without the values."""
    if len(body) > LARGEST_BYTES:
        raise RefusedEventError(f"the message has {len(body)} bytes, more than {LARGEST_BYTES}")
    try:
        return event.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3]) or "the message"
        raise RefusedEventError(printable(f"{where[:100]}: {first['msg'][:200]}")) from None


class Reception:
    """Judges who published what a service receives."""

    def __init__(self, service: str, url: str, *, accepts_nameless: bool) -> None:
        own = account_of(url) or ""
        #: What the accounts' names begin with; None if services share an account, so that a name says nothing.
        self._prefix = own.removesuffix(service) if service and own.endswith(f"_{service}") else None
        self._accepts_nameless = accepts_nameless

    def check(self, routing_key: str, user_id: str | None) -> None:
        """Raises RefusedEventError if this account does not publish events with this routing key."""
        if self._prefix is None:
            return
        if not user_id:
            if self._accepts_nameless:
                return
            raise RefusedEventError(f"{routing_key} names no account, and VASHSENDER_NAMELESS_EVENTS is refuse")
        services = [name for name, made in PUBLISHES.items() if routing_key in {event.ROUTING_KEY for event in made}]
        if user_id not in {f"{self._prefix}{name}" for name in (*services, ADMIN)}:
            raise RefusedEventError(f"{routing_key} came from {user_id[:100]!r}, an account that does not publish it")
