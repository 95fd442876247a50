"""What the page shows about senders: their load, the batches they hold, relays and providers over all senders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.api.shapes.operations import ServiceOut
from services.api.usecases.scaling import RelayLoad, SenderLoad

MOST_BATCHES = 100


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch that a sender holds, by its newest heartbeat. Times are Unix times."""

    sender: str
    id: int
    campaign_id: str
    done: int
    in_flight: int
    held_since: float
    last_result_at: float


@dataclass(frozen=True, slots=True)
class Resting:
    """Where something rests: the sender, until when (Unix time; None: not known), and why."""

    sender: str
    until: float | None
    reason: str


@dataclass(slots=True)
class RelayRow:
    """A relay over all live senders."""

    name: str
    senders: int = 0
    connections: int = 0
    #: Connections the senders may open to it; 0: not known.
    limit: int = 0
    in_flight: int = 0
    resting: list[Resting] = field(default_factory=list)
    #: Senders that use it less, after failures.
    slow: list[Resting] = field(default_factory=list)


@dataclass(slots=True)
class ProviderRow:
    """A provider that rests at a relay."""

    name: str
    relay: str
    resting: list[Resting] = field(default_factory=list)


def name_of(sender: ServiceOut) -> str:
    return sender.slot or sender.id


def load(sender: ServiceOut) -> SenderLoad:
    """What the advice needs of a live sender."""
    return SenderLoad(
        emails_per_second=sender.detail.get("emails_per_second", 0.0),
        capacity=sender.slots,
        held=len(sender.detail.get("batches", ())),
        relays=[RelayLoad(relay["name"], relay["state"] == "resting", _is_full(relay)) for relay in _relays(sender)],
    )


def held_batches(senders: Sequence[ServiceOut]) -> list[HeldBatch]:
    """The batches of live senders, those held longest first."""
    found = [
        HeldBatch(
            sender=name_of(sender),
            id=batch["batch_id"],
            campaign_id=batch["campaign_id"],
            done=batch["done"],
            in_flight=batch["in_flight"],
            held_since=_seen(sender) - batch["age_seconds"],
            last_result_at=_seen(sender) - batch["idle_seconds"],
        )
        for sender in senders
        for batch in sender.detail.get("batches", ())
    ]
    return sorted(found, key=lambda one: one.held_since)


def relays(senders: Sequence[ServiceOut]) -> list[RelayRow]:
    """Each relay once, by name, whichever senders use it."""
    rows: dict[str, RelayRow] = {}
    for sender in senders:
        for relay in _relays(sender):
            row = rows.setdefault(relay["name"], RelayRow(relay["name"]))
            row.senders += 1
            row.connections += relay["connections"]
            row.limit += relay.get("connections_limit", 0)
            row.in_flight += relay["in_flight"]
            if relay["state"] == "resting":
                row.resting.append(_resting(sender, relay))
            elif relay["state"] == "slow":
                row.slow.append(_resting(sender, relay))
    return [rows[name] for name in sorted(rows)]


def providers(senders: Sequence[ServiceOut]) -> list[ProviderRow]:
    """The providers that rest, each once for each relay."""
    rows: dict[tuple[str, str], ProviderRow] = {}
    for sender in senders:
        for relay in _relays(sender):
            for provider in relay.get("resting_providers", ()):
                key = provider["name"], relay["name"]
                rows.setdefault(key, ProviderRow(*key)).resting.append(_resting(sender, provider))
    return [rows[key] for key in sorted(rows)]


def _relays(sender: ServiceOut) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = sender.detail.get("relays", ())
    return found


def _is_full(relay: Mapping[str, Any]) -> bool:
    limit = int(relay.get("connections_limit", 0))
    return 0 < limit <= int(relay["connections"]) <= int(relay["in_flight"])


def _resting(sender: ServiceOut, what: Mapping[str, Any]) -> Resting:
    seconds = what.get("resting_for_seconds", 0.0)
    return Resting(name_of(sender), _seen(sender) + seconds if seconds else None, what["reason"])


def _seen(sender: ServiceOut) -> float:
    return sender.seen_at.timestamp() if sender.seen_at else 0.0
