"""How fast senders send each campaign and how much of it is left, so that its batches can be larger if they are soon
done."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

MOST_KEPT = 1000
"""Campaigns. One that is forgotten gets batches of the usual size until the next of them ends."""

PATIENCE_SECONDS = 1.0
"""How long the first batches of a campaign may take before more of the usual size are released behind them."""


@dataclass(slots=True)
class _Pace:
    emails_per_second: float = 0.0  # 0: no batch has ended yet
    left: int | None = None  # recipients in no batch yet; None: not known
    is_late: bool = False  # senders have waited for more
    since: float = field(default_factory=time.monotonic)


class Paces:
    """Emails per second of a sender, by the batch of the campaign that ended last. This is only memory, of one
    dispatcher: without it batches are of the usual size, or end less evenly."""

    def __init__(self) -> None:
        self._paces: OrderedDict[UUID, _Pace] = OrderedDict()

    def released(self, campaign_id: UUID, left: int) -> None:
        """A batch was released, and this many recipients are in none yet. From the first one on the pace is awaited."""
        self._at(campaign_id).left = left

    def note(self, campaign_id: UUID, emails_per_second: float) -> None:
        """A batch has ended."""
        self._at(campaign_id).emails_per_second = emails_per_second

    def note_late(self, campaign_id: UUID) -> None:
        """A sender has room, and its batches take long: its pace is awaited no longer."""
        if (pace := self._paces.get(campaign_id)) is not None:
            pace.is_late = True

    def of(self, campaign_id: UUID) -> float:
        """0 if nothing is known."""
        pace = self._paces.get(campaign_id)
        return 0.0 if pace is None else pace.emails_per_second

    def awaits(self, campaign_id: UUID) -> bool:
        """Some of its batches are out, more will follow, and none has ended within PATIENCE_SECONDS yet."""
        pace = self._paces.get(campaign_id)
        if pace is None or pace.emails_per_second or pace.is_late or pace.left == 0:
            return False
        return time.monotonic() - pace.since < PATIENCE_SECONDS

    def left(self, campaign_id: UUID, total: int) -> int:
        """Recipients that are in no batch yet, of `total`; too many if another process has released some."""
        pace = self._paces.get(campaign_id)
        return total if pace is None or pace.left is None else pace.left

    def _at(self, campaign_id: UUID) -> _Pace:
        pace = self._paces.setdefault(campaign_id, _Pace())
        self._paces.move_to_end(campaign_id)
        if len(self._paces) > MOST_KEPT:
            self._paces.popitem(last=False)
        return pace
