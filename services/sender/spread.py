"""Content that several recipients' servers refuse in the same words: the campaign's fault, not theirs."""

from uuid import UUID

from services.sender.smtp.contract import Outcome, Verdict
from shared.faults.judge import normalised
from shared.faults.meaning import SPREAD_DOMAINS, SPREAD_RECIPIENTS, Consequence

MOST_KEPT = 1000
"""Campaigns, and different refusals of one campaign, that are remembered."""

FORGOTTEN_AFTER = 100
"""Accepted emails of a campaign after which its refusals count no more: a few filters refuse some of every campaign."""


class _Refusals:
    """What one campaign met since its first refusal of this kind."""

    __slots__ = ("accepted", "same")

    def __init__(self) -> None:
        self.accepted = 0
        #: By words: the recipients.
        self.same: dict[tuple[int | None, str], set[str]] = {}


class SpreadRefusals:
    """The refusals of this process with the consequence SPREAD, by campaign."""

    def __init__(self) -> None:
        self._campaigns: dict[UUID, _Refusals] = {}

    def note(self, campaign_id: UUID, recipient: str, outcome: Outcome) -> bool:
        """Takes an outcome; returns whether so many recipients got the same that the campaign must pause."""
        refusals = self._campaigns.get(campaign_id)
        if outcome.consequence is not Consequence.SPREAD:
            if refusals is not None and outcome.verdict is Verdict.ACCEPTED:
                refusals.accepted += 1
                if refusals.accepted >= FORGOTTEN_AFTER:
                    del self._campaigns[campaign_id]
            return False
        if refusals is None:
            if len(self._campaigns) >= MOST_KEPT:
                self._campaigns.clear()
            refusals = self._campaigns[campaign_id] = _Refusals()
        if len(refusals.same) >= MOST_KEPT:
            refusals.same.clear()
        recipients = refusals.same.setdefault((outcome.code, normalised(outcome.reply)), set())
        recipients.add(recipient)
        domains = {known.rpartition("@")[2].lower() for known in recipients}
        if len(recipients) < SPREAD_RECIPIENTS or len(domains) < SPREAD_DOMAINS:
            return False
        del self._campaigns[campaign_id]
        return True
