"""How fast senders send each campaign and how much of it is left, so that its batches can be larger if they are soon
done."""

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

MOST_KEPT = 1000
"""Campaigns. One that is forgotten gets batches of the usual size until the next of them ends."""


@dataclass(slots=True)
class _Pace:
    emails_per_second: float = 0.0  # 0: no batch has ended yet
    released: int = 0  # recipients in new batches


class Paces:
    """Emails per second of a sender, by the batch of the campaign that ended last. This is only the memory of one
    dispatcher: what it does not know makes batches of the usual size, or shares the last of them less evenly."""

    def __init__(self) -> None:
        self._paces: OrderedDict[UUID, _Pace] = OrderedDict()

    def note(self, campaign_id: UUID, emails_per_second: float) -> None:
        """A batch has ended."""
        self._at(campaign_id).emails_per_second = emails_per_second

    def of(self, campaign_id: UUID) -> float:
        """0 if nothing is known."""
        pace = self._paces.get(campaign_id)
        return 0.0 if pace is None else pace.emails_per_second

    def released(self, campaign_id: UUID, emails: int) -> None:
        """A new batch of so many recipients was released."""
        self._at(campaign_id).released += emails

    def left(self, campaign_id: UUID, total: int) -> int:
        """Recipients that are in no batch yet, of `total`; too many if another process has released some."""
        pace = self._paces.get(campaign_id)
        return total if pace is None else max(total - pace.released, 0)

    def _at(self, campaign_id: UUID) -> _Pace:
        pace = self._paces.setdefault(campaign_id, _Pace())
        self._paces.move_to_end(campaign_id)
        if len(self._paces) > MOST_KEPT:
            self._paces.popitem(last=False)
        return pace
