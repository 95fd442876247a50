"""Records results as they come: whatever has accumulated goes out in one transaction, and the next starts at once."""

import time

from services.sender.db.record import Group, Recorded, record
from services.sender.hand import Hand
from services.sender.in_hand import InHand, insist
from shared import logs
from shared.ledger.database import Ledger

log = logs.get()


class Recorder:
    """One for a process. It never gives up on a result: while the database is away, results wait, no email starts."""

    def __init__(self, ledger: Ledger, in_hand: InHand, lease_seconds: float) -> None:
        self._ledger = ledger
        self._in_hand = in_hand
        self._metrics = in_hand.metrics
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        while True:
            await self._in_hand.recordable.wait()
            self._in_hand.recordable.clear()
            hands = [hand for hand in self._in_hand.hands if hand.results or hand.intents]
            if hands:
                await self._commit(hands)
                self._in_hand.recordable.set()

    async def _commit(self, hands: list[Hand]) -> None:
        pairs = [(hand, self._group(hand)) for hand in hands]
        intents = {hand.claim.batch_id: hand.intents for hand in hands}
        for hand in hands:
            hand.recording, hand.results, hand.intents = len(hand.results), [], []
            hand.committing = True
        before = time.monotonic()
        recorded = await insist(lambda: record(self._ledger, [group for _, group in pairs], self._lease_seconds))
        self._metrics.commit.observe(time.monotonic() - before)
        self._metrics.group.observe(sum(len(group.results) for _, group in pairs))
        for hand, group in pairs:
            hand.recording, hand.committing = 0, False
            self._settle(hand, group, recorded[group.batch_id], before)
            for _, committed in intents[group.batch_id]:
                if not committed.done():
                    committed.set_result(not hand.lost and not hand.stop)
        self._in_hand.rouse()

    def _group(self, hand: Hand) -> Group:
        claim = hand.claim
        return Group(
            claim.batch_id,
            claim.generation,
            claim.campaign_id,
            hand.facts.project_id,
            hand.results,
            [recipient_id for recipient_id, _ in hand.intents],
        )

    def _settle(self, hand: Hand, group: Group, recorded: Recorded, before: float) -> None:
        if recorded.lost:
            self._in_hand.lose(hand)
        else:
            hand.renewed_at = before
        self._metrics.recorded(recorded.results)
        if recorded.known_duplicates:
            self._metrics.known_duplicates.inc(recorded.known_duplicates)
            log.warning(
                "email.known_duplicate",
                campaign_id=str(group.campaign_id),
                batch_id=group.batch_id,
                emails=recorded.known_duplicates,
            )
        hand.changed.set()
