"""Feeds the engine: decides which email may start now, and takes what came of it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from services.sender.contents import Contents
from services.sender.db.worklist import WorklistRow
from services.sender.held_batch import Email, HeldBatch, StopCause
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.provider_gate import ProviderGate
from services.sender.refusals import BRAKED_EMAILS, RefusalWatch
from services.sender.smtp.contract import Outcome
from services.sender.spread import SpreadWatch
from shared.errors import DataError
from shared.ledger.provider_shares import Key
from shared.ledger.states import RecipientStatus
from shared.messages.message import Pieces
from shared.settings import SenderSettings

LEASE_SHARE = 2 / 3
"""The share of a lease, from its last renewal, in which an email may start."""


MOST_PASSED = 64
"""Rows of a campaign that are closed, deferred or made to wait before other campaigns are asked."""


EARLY_SECONDS = 0.001
"""A timer may come this much early: uvloop counts milliseconds."""


class Feed:
    """The engine's source of emails: see `services.sender.smtp.contract.Source`."""

    def __init__(
        self,
        settings: SenderSettings,
        held_batches: HeldBatches,
        limits: Limits,
        gate: ProviderGate,
        group_of: Mapping[str, str],
        contents: Contents,
        open_connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self._contents = contents
        self._memory = contents.memory
        self._lease_seconds = settings.lease_seconds
        #: An email may start this long after the last renewal.
        self._start_seconds = settings.lease_seconds * LEASE_SHARE
        self._slice_size = settings.slice_size
        self._unrecorded_limit = settings.unrecorded_limit
        self._batches = held_batches
        self._limits = limits
        self._gate = gate
        #: The group of each relay.
        self._group_of = group_of
        self._metrics = held_batches.metrics
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._connections = settings.smtp_connections * max(1, len(settings.relay_urls))
        self._open_connections = open_connections
        #: What relays that refuse nearly everything have refused.
        self.refusals = RefusalWatch()
        #: Refusals of content and senders.
        self.spread = SpreadWatch()
        self._signers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="dkim")

    def take(self, relay: str) -> Email | None:
        """The next email that may start now, if this relay takes it; one campaign after the other is asked."""
        batches = self._batches
        if batches.is_draining or not self._few_in_doubt():
            return None
        now = time.monotonic()
        email, earliest = self._take_waiting(relay, now)
        if email is not None:
            return email
        group = self._group_of[relay]
        passed = 0
        skipped: UUID | None = None
        for held in batches.in_turn():
            if held.facts.relay_group != group or held.claim.campaign_id == skipped:
                continue
            while held.worklist and held.next_is_examined and self._may_start(held, now):
                start = max(held.starts_at, self._limits.not_before(held, relay, now))
                if start > now:
                    earliest = min(start, earliest)
                    break
                if not self._can_make(held):
                    break
                row = held.worklist.take()
                if held.worklist.needs_slice(self._slice_size) or not held.worklist:
                    held.note_change()
                key = self._gate.key_of(relay, row.email)
                if key is not None and not self._gate.admits(key, held, now):
                    self._gate.wait(key, held, row, now)
                elif (email := self._prepare(held, row, relay, key, now)) is not None:
                    return email
                passed += 1
                if passed % MOST_PASSED == 0:
                    skipped, earliest = held.claim.campaign_id, now
                    break
        if earliest < math.inf:
            self._wake_at(asyncio.get_running_loop().time() + earliest - now)
        return None

    async def ready(self) -> None:
        """Returns when `take` may have an email again."""
        await self._batches.wait_for_email()

    def done(self, job: Any, outcome: Outcome) -> None:
        """Takes the outcome of an email that `take` gave."""
        held: HeldBatch = job.held
        self._limits.ended(job)
        has_result = held.settle(job, outcome)
        self._memory.remove_email(job.draft.memory)
        if held.facts.content.used():
            self._contents.note_room()
        self.refusals.note(held.claim.campaign_id, job.row.id, job.rcpt_to, outcome)
        self.spread.note(held.claim.campaign_id, job.row.id, job.rcpt_to, outcome)
        if job.key is not None:
            self._gate.ended(job.key, outcome.seconds)
        self._metrics.send_seconds.add(outcome.seconds)
        if has_result:
            self._batches.note_result()
        if not held.in_flight_count or (held.unrecorded.waits and not has_result):
            self._batches.record_now()
        if held.worklist or job.key is not None:
            self._batches.wake_feed()

    def close(self) -> None:
        """Ends the threads that sign."""
        self._signers.shutdown(wait=False)

    def _take_waiting(self, relay: str, now: float) -> tuple[Email | None, float]:
        """An email whose row has waited for its provider; else when to ask again."""
        while True:
            found = self._gate.next(relay, now, partial(self._may_start_waiting, now=now))
            if isinstance(found, float):
                return None, found
            key, waiting = found
            if (email := self._prepare(waiting.held, waiting.row, relay, key, now)) is not None:
                return email, now

    def _may_start_waiting(self, held: HeldBatch, now: float) -> bool:
        return self._may_start(held, now) and self._can_make(held)

    def _may_start(self, held: HeldBatch, now: float) -> bool:
        return held.may_send(now, self._start_seconds) and not self._is_braked(held)

    def _is_braked(self, held: HeldBatch) -> bool:
        """A relay seems to refuse everything: the ledger must judge that before many more recipients fail."""
        campaign_id = held.claim.campaign_id
        return self.refusals.is_suspicious(campaign_id) and self._batches.in_doubt_of(campaign_id) >= BRAKED_EMAILS

    def _few_in_doubt(self) -> bool:
        """A crash may send twice what is unrecorded and, per connection, one email in flight. A pipelined connection
        has its next email already; those count too, because they are soon unrecorded with others behind them."""
        limit = self._unrecorded_limit
        unrecorded, in_flight = self._batches.in_doubt()
        if unrecorded >= limit:
            return False
        in_doubt = unrecorded + in_flight
        return in_doubt < limit + self._connections or in_doubt < limit + self._open_connections()

    def _can_make(self, held: HeldBatch) -> bool:
        """Whether there is memory for the next email of a batch."""
        content = held.facts.content
        if content.builder is not None:
            return self._memory.has_room_for_email(content.builder.email_bytes)
        if content.error:
            held.stop_for(StopCause.REFUSED, content.take_error())
        else:
            self._contents.want(content)
        return False

    def _prepare(self, held: HeldBatch, row: WorklistRow, relay: str, key: Key | None, now: float) -> Email | None:
        """Renders one email, and counts it; None if its recipient is closed without an attempt."""
        if not row.email:
            held.close(row, RecipientStatus.CANCELLED)  # the person was erased before a batch covered the recipient
        elif held.is_suppressed(row):
            held.close(row, RecipientStatus.SUPPRESSED)
        elif row.intended and held.facts.retries.at_most_once:
            held.close(row, RecipientStatus.UNKNOWN, "the sender died while it was sending this email")
        else:
            builder = held.facts.content.builder
            assert builder is not None, "see _can_make"
            try:
                draft = held.draft_of(row, builder)
            except (DataError, ValueError) as error:
                held.close(row, RecipientStatus.FAILED, f"not sent: {error}")
            else:
                email = Email(held, row, draft, self._signed(draft.message), self._may_send_body, key)
                held.start(email)
                held.facts.content.use()
                self._memory.add_email(draft.memory)
                if key is not None:
                    self._gate.started(key)
                self._limits.taken(email, relay, now)
                self._metrics.queue_seconds.add(now - held.claimed_at)
                return email
        self._batches.note_result()
        return None

    def _signed(self, message: Pieces | Callable[[], Pieces]) -> Pieces | asyncio.Future[Pieces]:
        if isinstance(message, tuple):
            return message
        return asyncio.get_running_loop().run_in_executor(self._signers, message)

    def _may_send_body(self, email: Email, relay: str) -> bool | Awaitable[bool]:
        """The last gate. Under at_most_once the intent is committed first, together with whatever else waits; an email
        under a limit then waits for its slot."""
        held = email.held
        if not self._may_begin(email):
            return False
        if held.facts.retries.at_most_once and not email.intent_stands:
            may_leave = held.add_intent(email)
            self._batches.record_now()
            return may_leave
        return self._limits.begin(email, relay, partial(self._may_begin, email))

    def _may_begin(self, email: Email) -> bool:
        held = email.held
        return not held.is_suppressed(email.row) and held.may_send(time.monotonic(), self._lease_seconds)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        # Kept here, because uvloop returns a handle without a time for what is due within a millisecond.
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_at(when + EARLY_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        """`take` sets another timer if this one came too early."""
        self._timer = None
        self._batches.wake_feed()
