"""How fast senders send each campaign, so that its batches can be larger if they are soon done."""

from collections import OrderedDict
from uuid import UUID

MOST_KEPT = 1000
"""Campaigns. One that is forgotten gets batches of the usual size until the next of them ends."""


class Paces:
    """Emails per second in one place of a sender, by the batch of the campaign that ended last."""

    def __init__(self) -> None:
        self._paces: OrderedDict[UUID, float] = OrderedDict()

    def note(self, campaign_id: UUID, emails_per_second: float) -> None:
        """A batch has ended."""
        self._paces[campaign_id] = emails_per_second
        self._paces.move_to_end(campaign_id)
        if len(self._paces) > MOST_KEPT:
            self._paces.popitem(last=False)

    def of(self, campaign_id: UUID) -> float:
        """0 if nothing is known."""
        return self._paces.get(campaign_id, 0.0)
