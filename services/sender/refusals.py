"""Relays that refuse nearly everything: what this process has seen, until the ledger judges it.

While a relay refuses one recipient of a campaign after the other in the same words, its results go to the ledger
(`shared/ledger/breakers.py`), and the campaign starts emails only as fast as they are recorded. Otherwise this costs
nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from services.sender.smtp.contract import Outcome, Verdict
from shared.address_text import without_address
from shared.faults.breakers import refusal_of
from shared.ledger.breakers import Noted

SUSPICIOUS_AFTER = 5
"""The same permanent refusals in a row that make a relay suspicious."""

OTHERS_TOLERATED = 5
"""Other results of a suspicious relay; the next one ends the suspicion."""

BRAKED_EMAILS = 16
"""Emails of a campaign that may be in flight or unrecorded while one of its relays is suspicious."""

MOST_KEPT = 1000
"""Campaigns and relays that are watched."""

_RESULTS = (Verdict.ACCEPTED, Verdict.TRANSIENT, Verdict.PERMANENT)

_Seen = tuple[int, str, str, float]  # recipient id, domain, refusal, monotonic seconds


@dataclass(slots=True)
class _Relay:
    """A relay that has just refused a recipient of a campaign."""

    refusal: str
    reply: str
    in_a_row: int = 0
    others: int = 0
    is_suspicious: bool = False
    #: Not written to the ledger yet; at first those that will make it suspicious.
    seen: list[_Seen] = field(default_factory=list)


class RefusalWatch:
    """One per process."""

    def __init__(self) -> None:
        self._relays: dict[tuple[UUID, str], _Relay] = {}
        self._suspicious: set[UUID] = set()

    def is_suspicious(self, campaign_id: UUID) -> bool:
        """A relay seems to refuse everything of this campaign."""
        return campaign_id in self._suspicious

    def note(self, campaign_id: UUID, recipient_id: int, recipient: str, outcome: Outcome) -> None:
        """Takes the outcome of an attempt at one recipient."""
        if not self._relays and outcome.verdict is Verdict.ACCEPTED:
            return  # nearly always
        if outcome.verdict not in _RESULTS or not outcome.relay:
            return
        key = (campaign_id, outcome.relay)
        relay = self._relays.get(key)
        code = outcome.code or 0
        if outcome.verdict is not Verdict.PERMANENT or code < 500:
            if relay is not None:
                self._other(key, relay, (recipient_id, _domain(recipient), "", time.monotonic()))
            return
        refusal = refusal_of(code, outcome.reply)
        seen = (recipient_id, _domain(recipient), refusal, time.monotonic())
        if relay is not None and relay.refusal != refusal and relay.is_suspicious:
            self._other(key, relay, seen)
            return
        if relay is None or relay.refusal != refusal:
            if len(self._relays) >= MOST_KEPT:
                self._forget_all()
            relay = self._relays[key] = _Relay(refusal, "")
        relay.reply = f"{code} {without_address(outcome.reply, recipient)}"
        relay.in_a_row += 1
        relay.seen.append(seen)
        if relay.in_a_row >= SUSPICIOUS_AFTER:
            relay.is_suspicious = True
            self._suspicious.add(campaign_id)

    def take(self) -> Mapping[UUID, list[Noted]]:
        """What is to be written with the results that are recorded next, by campaign."""
        taken: dict[UUID, list[Noted]] = {}
        if not self._suspicious:
            return taken
        now = time.monotonic()
        for (campaign_id, name), relay in list(self._relays.items()):
            if not relay.is_suspicious:
                continue
            if relay.seen:
                seen = [(recipient_id, domain, refusal, now - at) for recipient_id, domain, refusal, at in relay.seen]
                taken.setdefault(campaign_id, []).append(Noted(name, seen, relay.reply))
                relay.seen = []
            if relay.others > OTHERS_TOLERATED:
                self._end(campaign_id, name)
        return taken

    def _other(self, key: tuple[UUID, str], relay: _Relay, seen: _Seen) -> None:
        if not relay.is_suspicious:
            del self._relays[key]
            return
        relay.others += 1
        relay.seen.append(seen)

    def _end(self, campaign_id: UUID, name: str) -> None:
        del self._relays[campaign_id, name]
        if not any(known == campaign_id and relay.is_suspicious for (known, _), relay in self._relays.items()):
            self._suspicious.discard(campaign_id)

    def _forget_all(self) -> None:
        self._relays.clear()
        self._suspicious.clear()


def _domain(recipient: str) -> str:
    return recipient.rpartition("@")[2].lower()
