"""Feeds the engine: which email may start at this instant, and what came of it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from services.sender.db.worklist import WorklistRow
from services.sender.hand import Email, Hand, render
from services.sender.in_hand import InHand
from services.sender.smtp.contract import Outcome, Verdict
from shared.errors import DataError
from shared.ledger.states import RecipientStatus
from shared.settings import SenderSettings

LOOK_VALID_SECONDS = 0.9
"""An email may start so long after a look that found its campaign sending: a pause bites within a second."""

LEASE_SHARE = 2 / 3
"""An email may start in this share of the lease after its last renewal."""


class Feed:
    """The engine's source of emails: see `services.sender.smtp.contract.Source`."""

    def __init__(
        self, settings: SenderSettings, in_hand: InHand, open_connections: Callable[[], int] = lambda: 0
    ) -> None:
        self._settings = settings
        self._in_hand = in_hand
        self._metrics = in_hand.metrics
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._connections = settings.smtp_connections * max(1, len(settings.relay_urls))
        self._open_connections = open_connections
        self._signers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="dkim")

    def take(self) -> Email | None:
        """The next email that may start now, batches in turn."""
        if self._in_hand.draining:
            return None
        hands = self._in_hand.hands
        now = time.monotonic()
        earliest: float | None = None
        for _ in range(len(hands)):
            hand = hands[0]
            hands.rotate(-1)
            while hand.worklist and self._may_start(hand, now):
                start = hand.next_start()
                if start > now:
                    earliest = min(start, earliest or start)
                    break
                email = self._prepare(hand, hand.worklist.popleft(), now)
                if len(hand.worklist) < self._settings.slice_size // 2:
                    hand.changed.set()
                if email is not None:
                    return email
        if earliest is not None:
            self._rouse_at(asyncio.get_running_loop().time() + earliest - now)
        return None

    async def ready(self) -> None:
        await self._in_hand.wake.wait()

    def done(self, job: Any, outcome: Outcome) -> None:
        """Takes the outcome of an email that `take` gave."""
        hand: Hand = job.hand
        result = hand.settle(job, outcome)
        self._metrics.in_flight.dec()
        self._metrics.send_seconds.observe(outcome.seconds)
        if outcome.verdict is Verdict.SENDER_REFUSED:
            hand.refused = f"{outcome.relay} refuses this campaign's mail: {outcome.reply}"
            hand.stop = hand.stop or hand.refused
        if result is not None:
            self._in_hand.emails_done += 1
            self._in_hand.recordable.set()
        hand.changed.set()
        if hand.worklist:
            self._in_hand.rouse()

    def close(self) -> None:
        self._signers.shutdown(wait=False)

    def _may_start(self, hand: Hand, now: float) -> bool:
        return (
            not hand.stop
            and not hand.lost
            and now - hand.renewed_at < self._settings.lease_seconds * LEASE_SHARE
            and now - hand.looked_at < LOOK_VALID_SECONDS
            and self._few_in_doubt()
        )

    def _few_in_doubt(self) -> bool:
        """A crash may send twice what is unrecorded and, per connection, one email in flight. A pipelined connection
        has its next email already, so those are counted too: they soon are unrecorded, with others behind them."""
        limit, unrecorded = self._settings.unrecorded_limit, self._in_hand.unrecorded()
        if unrecorded >= limit:
            return False
        in_doubt = unrecorded + self._in_hand.in_flight()
        return in_doubt < limit + self._connections or in_doubt < limit + self._open_connections()

    def _prepare(self, hand: Hand, row: WorklistRow, now: float) -> Email | None:
        """Renders one email; None where its recipient is closed without an attempt."""
        if row.suppressed:
            hand.refuse(row, RecipientStatus.SUPPRESSED, None)
        elif row.intended and hand.facts.retries.at_most_once:
            hand.refuse(row, RecipientStatus.UNKNOWN, "the sender died while it was sending this email")
        else:
            try:
                message = render(hand, row)
            except (DataError, ValueError) as error:
                hand.refuse(row, RecipientStatus.FAILED, f"not sent: {error}")
            else:
                email = Email(hand, row, self._signed(message), self._may_send_body)
                hand.started += 1
                hand.in_flight.add(email)
                self._metrics.in_flight.inc()
                self._metrics.queue_seconds.observe(now - hand.claimed_at)
                return email
        self._in_hand.emails_done += 1
        self._in_hand.recordable.set()
        return None

    def _signed(self, message: bytes | Callable[[], bytes]) -> bytes | asyncio.Future[bytes]:
        if isinstance(message, bytes):
            return message
        return asyncio.get_running_loop().run_in_executor(self._signers, message)

    def _may_send_body(self, email: Email) -> bool | asyncio.Future[bool]:
        """The last gate. Under at_most_once the intent is committed first, together with whatever else waits."""
        hand = email.hand
        now = time.monotonic()
        allowed = (
            not hand.stop
            and not hand.lost
            and now - hand.looked_at < LOOK_VALID_SECONDS
            and now - hand.renewed_at < self._settings.lease_seconds
        )
        if not allowed or not hand.facts.retries.at_most_once:
            return allowed
        committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        hand.intents.append((email.row.id, committed))
        self._in_hand.recordable.set()
        return committed

    def _rouse_at(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timer
        if timer is not None and not timer.cancelled() and loop.time() < self._timer_at <= when:
            return
        if timer is not None:
            timer.cancel()
        # Kept here, as uvloop gives a plain handle, which knows no time, for what is due within the millisecond.
        self._timer_at = when
        self._timer = loop.call_at(when, self._in_hand.rouse)
