"""Would more senders help? From the newest heartbeats and the backlog: an answer, its reason, a suggested number."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

CLEAR_SECONDS = 300.0
"""The suggested number of senders clears the backlog in this time, as on the dashboard *Senders*."""
MOST_SUGGESTED = 1000


class Help(StrEnum):
    """Whether more senders would help."""

    YES = "yes"
    #: Only if the relays allow more connections.
    PERHAPS = "perhaps"
    NO = "no"


@dataclass(frozen=True, slots=True)
class RelayLoad:
    """A relay as one sender sees it."""

    name: str
    is_resting: bool
    #: Whether each connection it may open is open and has an email in flight.
    is_full: bool


@dataclass(frozen=True, slots=True)
class SenderLoad:
    """A live sender that is not draining."""

    emails_per_second: float
    #: Batches it can hold at once.
    capacity: int
    held: int
    relays: Sequence[RelayLoad]


@dataclass(frozen=True, slots=True)
class Advice:
    help: Help
    #: The reason, in sentences.
    why: str
    #: Suggested number of senders.
    senders: int


def advice(senders: Sequence[SenderLoad], backlog: int) -> Advice:
    """The answer for the live senders and the emails that could go out now."""
    if not senders:
        return Advice(Help.YES, "No sender is alive, so nothing is sent.", 1)
    in_use = max(sum(1 for one in senders if one.held), 1)
    if not backlog:
        return Advice(Help.NO, "No email waits for a sender.", in_use)
    relays = [relay for one in senders for relay in one.relays]
    usable = [relay for relay in relays if not relay.is_resting]
    now = len(senders)
    if relays and not usable:
        return Advice(Help.NO, "Every relay rests. More senders would wait as well.", now)
    held, capacity = sum(one.held for one in senders), sum(one.capacity for one in senders)
    if held < capacity:
        return Advice(Help.NO, f"The senders have room: they hold {held} of {capacity} batches.", now)
    rate = sum(one.emails_per_second for one in senders)
    if not rate:
        return Advice(Help.NO, "The senders hold all batches they can, but nothing was sent in the last seconds.", now)
    if backlog / rate <= CLEAR_SECONDS:
        return Advice(Help.NO, f"At this rate the backlog is gone in {ceil(backlog / rate)} s.", now)
    best = max(one.emails_per_second for one in senders)
    wanted = min(max(ceil(backlog / (CLEAR_SECONDS * best)), now + 1), MOST_SUGGESTED)
    if all(relay.is_full for relay in usable):
        why = (
            "All connections to the relays are busy. More senders open more connections: only do so if the relays"
            " allow them."
        )
        return Advice(Help.PERHAPS, why, wanted)
    return Advice(Help.YES, f"The senders hold all {capacity} batches they can, and emails wait.", wanted)
