"""Refusals that several recipients may share: what this process has seen, until the ledger judges it."""

from collections.abc import Mapping
from uuid import UUID

from services.sender.smtp.contract import Outcome
from shared.address_text import without_address
from shared.faults.breakers import refusal_of
from shared.faults.meaning import Consequence
from shared.faults.spread import Refused
from shared.ledger.spread import Noted


class SpreadWatch:
    """One per process. It holds what waits for the next commit, so it is as small as the unrecorded results."""

    def __init__(self) -> None:
        self._seen: dict[UUID, tuple[list[Refused], dict[str, str]]] = {}

    def note(self, campaign_id: UUID, recipient_id: int, recipient: str, outcome: Outcome) -> None:
        """Takes the outcome of an attempt at one recipient."""
        if outcome.consequence is not Consequence.SPREAD:
            return
        code = outcome.code or 0
        refusal = refusal_of(code, outcome.reply)
        seen, replies = self._seen.setdefault(campaign_id, ([], {}))
        seen.append(Refused(recipient_id, recipient.rpartition("@")[2].lower(), refusal))
        replies[refusal] = f"{outcome.relay}: {code} {without_address(outcome.reply, recipient)}"

    def take(self) -> Mapping[UUID, Noted]:
        """What is to be written with the results that are recorded next, by campaign."""
        taken = {campaign_id: Noted(seen, replies) for campaign_id, (seen, replies) in self._seen.items()}
        self._seen = {}
        return taken
