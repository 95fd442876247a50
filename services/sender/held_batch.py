"""A batch this sender holds: its worklist, its emails in flight, what is to be recorded, and why it stops."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Iterator, Mapping, Sequence
from email.utils import formatdate
from enum import IntEnum
from typing import Final, NamedTuple

from services.sender.campaigns import CampaignFacts
from services.sender.db.claims import Claim
from services.sender.db.worklist import WorklistRow
from services.sender.drafts import Draft, Drafts
from services.sender.lane import Passage
from services.sender.results import Result, closed, result_of
from services.sender.smtp.contract import Outcome, Verdict
from services.sender.unrecorded import Unrecorded
from services.sender.worklist import Worklist
from shared.events import BatchProgress
from shared.ledger.provider_shares import Key
from shared.ledger.states import RecipientStatus
from shared.messages.message import MessageBuilder, Pieces
from shared.relays.replies import Stage

FAULTS_TOLERATED = 3
"""Tries of one email in one claim that end in the relay's fault; then it waits until the batch is claimed again."""

FAULT_PAUSE_SECONDS = 30.0
"""How long a batch rests when emails were left because of the relay's fault."""

LOOK_VALID_SECONDS = 0.9
"""An email may start this long after a look that found its campaign sending, so that a pause bites within a second."""

STARTS_EXPECTED = 20
"""Emails that a batch under a limit may start before the next look, beyond twice those since the last."""


class StopCause(IntEnum):
    """Why no further email of a batch starts. A cause replaces those before it."""

    DRAINING = 1  # this process is stopping
    NOT_SENDING = 2  # its campaign is paused, stopping or past deliver_by
    OUT_OF_TIME = 3  # it was held too long, or no relay was available for long: the timeline says so
    REFUSED = 4  # a relay refuses the campaign's mail: the campaign is paused
    LOST = 5  # another sender has it


class Stop(NamedTuple):
    cause: StopCause
    why: str


class Lease:
    """Until when this process may work on a batch, by its own monotonic clock.

    Both moments are taken before the statement is sent, so they are never later than what the ledger promised."""

    __slots__ = ("_looked_at", "_renewed_at")

    def __init__(self, claimed_at: float) -> None:
        self._renewed_at = claimed_at
        self._looked_at = claimed_at  # the last look that found the batch ours and its campaign sending

    def renewed(self, at: float) -> None:
        self._renewed_at = at

    def confirmed(self, at: float) -> None:
        """A look found the batch ours and its campaign sending."""
        self._looked_at = at

    def age(self, now: float) -> float:
        """Seconds since it was renewed."""
        return now - self._renewed_at

    def allows(self, now: float, seconds: float) -> bool:
        """It was renewed less than `seconds` ago, and the campaign was seen sending just now."""
        return now - self._renewed_at < seconds and now - self._looked_at < LOOK_VALID_SECONDS


class HeldBatch:
    """One claimed batch. It changes only through its methods and those of its parts. Moments are monotonic seconds."""

    __slots__ = (
        "_body_left",
        "_changed",
        "_done",
        "_drafts",
        "_examined",
        "_examines_all",
        "_faults",
        "_has_retries",
        "_in_flight",
        "_last_progress",
        "_left_for_later",
        "_place_given_up",
        "_rows_waiting",
        "_started",
        "_started_at",
        "_stop",
        "_suppressed",
        "_tally",
        "_wants_events",
        "claim",
        "claimed_at",
        "date",
        "facts",
        "in_flight_count",
        "lease",
        "scopes",
        "starts_at",
        "unrecorded",
        "worklist",
    )

    def __init__(self, claim: Claim, facts: CampaignFacts, claimed_at: float) -> None:
        self.claim: Final = claim
        self.facts: Final = facts
        #: Just before the claim was sent to the ledger.
        self.claimed_at: Final = claimed_at
        #: The Date header of its emails (RFC 5322, 3.6.1).
        self.date: Final = formatdate(claim.dated_at)
        self.lease: Final = Lease(claimed_at)
        #: The scopes of the limits it may be under, besides those of relays.
        self.scopes: Final = facts.limit_scopes
        #: When its first email may start.
        self.starts_at: Final = claimed_at + max(claim.starts_in_seconds, 0.0)
        self.worklist: Final = Worklist(facts.content.row_bytes, claim.last_id)
        self.unrecorded: Final = Unrecorded()
        self._drafts: Final = Drafts(facts, self.date, is_old=not claim.has_tokens)
        #: Emails that have started and have no result yet.
        self._in_flight: set[Email] = set()
        self.in_flight_count = 0
        #: Its project wants facts in the outbox; as the claim and the newest look said.
        self._wants_events = claim.wants_events
        #: Results so far, by status and in total.
        self._tally: Counter[str] = Counter()
        self._done = 0
        self._last_progress = claimed_at
        #: By recipient id: tries in this claim that ended in the relay's fault.
        self._faults: Counter[int] = Counter()
        #: An email had FAULTS_TOLERATED such tries.
        self._left_for_later = False
        #: An email was refused for now, and is to be tried again.
        self._has_retries = False
        #: A body left and was not accepted, so its Date must stay.
        self._body_left = False
        #: Rows taken from the worklist that wait for their provider, by id: see provider_gate.
        self._rows_waiting: dict[int, WorklistRow] = {}
        self._stop: Stop | None = None
        #: Recipient ids whose address the last look found suppressed.
        self._suppressed: Container[int] = frozenset()
        #: Those it asked about; None: all that had been read.
        self._examined: Container[int] | None = None
        self._examines_all = True
        #: Emails that started since the last look.
        self._started = 0
        #: When its first email started.
        self._started_at: float | None = None
        self._changed = asyncio.Event()
        self._place_given_up = asyncio.Event()

    # Events

    @property
    def wants_events(self) -> bool:
        """Its project wants facts in the outbox."""
        return self._wants_events

    def note_events_wanted(self, wanted: bool) -> None:
        """What the last look found."""
        self._wants_events = wanted

    # Why it stops

    @property
    def stop(self) -> Stop | None:
        return self._stop

    @property
    def is_lost(self) -> bool:
        return self._stop is not None and self._stop.cause is StopCause.LOST

    def stop_for(self, cause: StopCause, why: str) -> None:
        """No further email starts. A lighter cause than the present one changes nothing."""
        if self._stop is None or cause >= self._stop.cause:
            self._stop = Stop(cause, why)
        self._changed.set()

    # Emails

    def in_flight(self) -> frozenset["Email"]:
        """Emails that have started and have no result yet."""
        return frozenset(self._in_flight)

    def may_send(self, now: float, lease_seconds: float) -> bool:
        """It is not stopped, and its lease, renewed less than `lease_seconds` ago, allows it."""
        return self._stop is None and self.lease.allows(now, lease_seconds)

    def add_slice(self, rows: Sequence[WorklistRow], asked: int) -> None:
        """The next slice of the worklist; one shorter than what was asked for is the last."""
        self.worklist.add_slice(rows, asked)
        self.facts.content.note_row_bytes(self.worklist.row_bytes)

    def rows_to_examine(self, most: int) -> Sequence[WorklistRow]:
        """The emails whose suppression the next look asks for: those in flight or waiting, and so many that start next.

        A batch without a place waits for its limit, and starts few. So many such batches cost a look little."""
        if not self.has_place:
            most = min(most, 2 * self._started + STARTS_EXPECTED)
        self._started = 0
        self._examines_all = most >= len(self.worklist)
        in_flight = [email.row for email in self._in_flight]
        return [*in_flight, *self._rows_waiting.values(), *self.worklist.first(most)]

    def examined(self, rows: Sequence[WorklistRow], suppressed: Collection[str]) -> None:
        """A look asked about these rows, and found these addresses (by key) suppressed. If it did not ask about all, no
        other starts before the next look; rows that were read meanwhile are marked already."""
        self._suppressed = {row.id for row in rows if row.email_key in suppressed} if suppressed else frozenset()
        self._examined = None if self._examines_all else {row.id for row in rows}

    @property
    def next_is_examined(self) -> bool:
        """Whether it is known if the address of the next email is suppressed."""
        return self._examined is None or self.worklist.first(1)[0].id in self._examined

    def is_suppressed(self, row: WorklistRow) -> bool:
        """Its address was suppressed when the row was read, or at the last look."""
        return row.suppressed or row.id in self._suppressed

    def draft_of(self, row: WorklistRow, builder: MessageBuilder) -> Draft:
        """The email to this recipient, as made. Raises DataError or ValueError if the recipient's values do not fit."""
        return self._drafts.take(builder, row, lambda: self._rows_to_draft(Drafts.most(builder)))

    def _rows_to_draft(self, most: int) -> Iterator[WorklistRow]:
        """Those that probably start next. A batch without a place has none: there may be many such batches."""
        if self.has_place:
            for row in self.worklist.first(most):
                if row.email and not self.is_suppressed(row):
                    yield row

    def start(self, email: "Email") -> None:
        """An email goes to the engine."""
        self._started += 1
        if self._started_at is None:
            self._started_at = time.monotonic()
        self._in_flight.add(email)
        self.in_flight_count += 1

    def close(self, row: WorklistRow, status: RecipientStatus, reply: str | None = None) -> None:
        """Closes a recipient without an attempt."""
        self._add(closed(row.id, row.email, row.status, row.attempts, status, reply), tried=False)

    @property
    def rows_waiting(self) -> int:
        """Rows taken from the worklist that wait for their provider."""
        return len(self._rows_waiting)

    def begin_wait(self, row: WorklistRow) -> None:
        """A row taken from the worklist waits for its provider."""
        self._rows_waiting[row.id] = row

    def end_wait(self, row: WorklistRow) -> None:
        """A row waits no longer."""
        del self._rows_waiting[row.id]
        self._changed.set()

    def defer(self, row: WorklistRow, seconds: float, relay: str, why: str) -> None:
        """Tries a recipient again after these seconds, without an attempt."""
        self._add(
            Result(
                row.id, row.email, row.status, row.attempts, RecipientStatus.DEFERRED.value, row.attempts,
                delay_seconds=seconds, reply=why, relay=relay,
            ),
            tried=False,
        )  # fmt: skip

    def add_intent(self, email: "Email") -> asyncio.Future[bool]:
        """Has the ledger know, under at_most_once, that a body is about to leave; the future says whether it may."""
        email.has_intent = True
        may_leave = self.unrecorded.add_intent(email.row.id)
        may_leave.add_done_callback(email.note_intent)
        return may_leave

    def settle(self, email: "Email", outcome: Outcome) -> bool:
        """Takes the outcome of an email that was in flight; returns whether the recipient has a result."""
        self._in_flight.remove(email)
        self.in_flight_count -= 1
        if not self._in_flight:
            self._changed.set()
        row, verdict = email.row, outcome.verdict
        if verdict is not Verdict.ACCEPTED and (verdict is Verdict.AMBIGUOUS or outcome.stage in _BODY_STAGES):
            self._body_left = True
        result = result_of(row.id, row.email, row.status, row.attempts, outcome, self.facts.retries)
        if result is not None:
            self._has_retries |= result.status == RecipientStatus.DEFERRED.value
            self._add(result, tried=True)
            return True
        if email.has_intent:
            self.unrecorded.withdraw_intent(row.id)
        if verdict is Verdict.SENDER_REFUSED:
            self.stop_for(StopCause.REFUSED, f"{outcome.relay} refuses this campaign's mail: {outcome.reply}")
        elif verdict in (Verdict.RELAY_FAULT, Verdict.THROTTLED):
            self._faults[row.id] += 1
            if self._faults[row.id] < FAULTS_TOLERATED:
                self.worklist.put_last(row)
            else:
                self._left_for_later = True
        elif verdict is Verdict.NOT_STARTED and self._stop is None:
            self.worklist.put_first(row)
        return False

    def _add(self, result: Result, *, tried: bool) -> None:
        self.unrecorded.add(result, tried=tried)
        self._done += 1
        self._tally[result.status] += 1
        self._last_progress = time.monotonic()

    # Progress and end

    @property
    def has_results(self) -> bool:
        """A recipient was closed or deferred in this claim."""
        return self._done > 0

    @property
    def tally(self) -> Mapping[str, int]:
        """Results so far by status."""
        return self._tally

    def idle_seconds(self, now: float) -> float:
        """Seconds since its last result."""
        return now - self._last_progress

    def pace(self, now: float) -> float:
        """Its results per second since its first email started; 0 if it was stopped: the dispatcher then looks soon, as
        it may be due again at once."""
        if self._stop is not None:
            return 0.0
        since = self.claimed_at if self._started_at is None else self._started_at
        return self._done / max(now - since, 0.001)

    def progress(self, now: float) -> BatchProgress:
        """What a heartbeat says about it."""
        return BatchProgress(
            batch_id=self.claim.batch_id,
            campaign_id=self.claim.campaign_id,
            generation=self.claim.generation,
            done=self._done,
            in_flight=self.in_flight_count,
            idle_seconds=now - self._last_progress,
            age_seconds=now - self.claimed_at,
        )

    @property
    def all_started(self) -> bool:
        """Nothing more will start, but for rows that wait for their provider, or that a relay's fault brings back."""
        return self._stop is not None or self.worklist.is_used_up

    @property
    def is_over(self) -> bool:
        """Nothing is in flight or unrecorded, and nothing more will start."""
        waits = self._rows_waiting and self._stop is None
        return not self._in_flight and self.unrecorded.is_empty and self.all_started and not waits

    @property
    def keeps_date(self) -> bool:
        """A body may have left under this Date, now or before a crash, so the next claim must use the same."""
        return self._body_left or not self.claim.is_newly_dated

    @property
    def has_retries(self) -> bool:
        """An email was refused for now; rows that only wait for their provider do not count."""
        return self._has_retries

    @property
    def rest_seconds(self) -> float:
        """How long to leave the batch alone after it is given back."""
        return FAULT_PAUSE_SECONDS if self._left_for_later and self._stop is None else 0.0

    def note_change(self) -> None:
        """Wakes the task that works on this batch."""
        self._changed.set()

    async def wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    # Its place in the sender's capacity

    @property
    def has_place(self) -> bool:
        return not self._place_given_up.is_set()

    def give_place_up(self) -> None:
        """It only waits from here on, or it has ended."""
        self._drafts.clear()
        self._place_given_up.set()

    async def wait_until_place_given_up(self) -> None:
        await self._place_given_up.wait()


_BODY_STAGES = (Stage.BODY, Stage.DOT)


class Email:
    """One email on its way through the engine: see `services.sender.smtp.contract.Job`."""

    __slots__ = (
        "_body",
        "_may_send_body",
        "draft",
        "has_intent",
        "held",
        "intent_stands",
        "key",
        "mail_from",
        "passage",
        "rcpt_to",
        "row",
        "smtputf8",
        "token_from",
    )

    def __init__(
        self,
        held: HeldBatch,
        row: WorklistRow,
        draft: Draft,
        body: Pieces | asyncio.Future[Pieces],
        may_send_body: "Callable[[Email, str], bool | Awaitable[bool]]",
        key: Key | None = None,
    ) -> None:
        self.held = held
        #: The limit of its provider.
        self.key = key
        self.row = row
        self.draft = draft
        self.mail_from = held.facts.envelope_from
        self.token_from = draft.token_from
        self.rcpt_to = row.email
        self.smtputf8 = draft.smtputf8
        #: Under at_most_once: an intent was asked for, and the ledger may have it.
        self.has_intent = False
        #: The ledger has it, and the body may leave.
        self.intent_stands = False
        #: Its way under its limits; None: it is under none.
        self.passage: Passage | None = None
        self._body = body
        self._may_send_body = may_send_body

    @property
    def provider(self) -> str | None:
        """The recipient's provider, if it has a limit."""
        return self.key.provider if self.key is not None else None

    def body(self) -> Pieces | asyncio.Future[Pieces]:
        return self._body

    def note_intent(self, may_leave: asyncio.Future[bool]) -> None:
        """The ledger has answered."""
        self.intent_stands = not may_leave.cancelled() and may_leave.exception() is None and may_leave.result()

    @property
    def is_timed(self) -> bool:
        return self.passage is not None

    def may_send_body(self, relay: str) -> bool | Awaitable[bool]:
        return self._may_send_body(self, relay)
