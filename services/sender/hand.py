"""A batch in our hands: its worklist, what is in flight, what waits to be recorded, and whether an email may start."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import orjson

from services.sender.campaigns import CampaignFacts
from services.sender.db.claims import Claim
from services.sender.db.worklist import WorklistRow
from services.sender.results import Result, closed, result_of
from services.sender.smtp.contract import Outcome, Verdict
from shared.errors import DataError
from shared.ledger.states import RecipientStatus

FAULTS_TOLERATED = 3
"""Tries of one email in one claim that ended in the relay's fault; then the email waits for the batch's next round."""

FAULT_PAUSE_SECONDS = 30.0
"""How long a batch rests when emails were left for the relay's fault."""


@dataclass(slots=True)
class Hand:
    """One claimed batch. All moments are this process's monotonic seconds; `renewed_at` and `looked_at` are taken
    before the statement was sent, so what the ledger promised then still holds.

    `stop` says why no email may start any more: paused, cancelled, draining, a deadline (`yielded`), the relay refuses
    the campaign's sender (`refused`). `lost`: another has the batch. `freed`: it only waits, and holds no slot."""

    claim: Claim
    facts: CampaignFacts
    claimed_at: float
    renewed_at: float
    looked_at: float
    date: str = ""
    worklist: deque[WorklistRow] = field(default_factory=deque)
    after_id: int = 0
    exhausted: bool = False
    in_flight: set["Email"] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)
    intents: list[tuple[int, asyncio.Future[bool]]] = field(default_factory=list)
    recording: int = 0
    committing: bool = False
    started: int = 0
    done: int = 0
    last_progress: float = 0.0
    stop: str = ""
    yielded: str = ""
    refused: str = ""
    lost: bool = False
    faults: Counter[int] = field(default_factory=Counter)
    left_for_later: bool = False
    tally: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.date = self.facts.date(self.claim.dated_at)
        self.last_progress = self.claimed_at

    @property
    def unrecorded(self) -> int:
        return len(self.results) + self.recording

    @property
    def over(self) -> bool:
        """Nothing is in flight, nothing is unrecorded, and nothing more will start."""
        if self.in_flight or self.unrecorded or self.intents or self.committing:
            return False
        return self.all_started

    @property
    def all_started(self) -> bool:
        """Nothing more will start, but for what a relay's fault brings back."""
        return bool(self.lost or self.stop) or (self.exhausted and not self.worklist)

    def next_start(self) -> float:
        """When the next email may start: a limited batch is spread over its span."""
        begin = self.claimed_at + max(self.claim.starts_in_seconds, 0.0)
        if self.claim.span_seconds is None:
            return begin
        return begin + self.started * self.claim.span_seconds / self.claim.size

    def refuse(self, row: WorklistRow, status: RecipientStatus, reply: str | None) -> None:
        """Closes a recipient without an attempt."""
        self.add(closed(row.id, row.email, row.status, row.attempts, status, reply))

    def add(self, result: Result) -> None:
        self.results.append(result)
        self.done += 1
        self.tally[result.status] += 1
        self.last_progress = time.monotonic()

    def settle(self, email: "Email", outcome: Outcome) -> Result | None:
        """Takes the outcome of an email that was in flight; returns what is to be recorded of it."""
        self.in_flight.discard(email)
        row = email.row
        result = result_of(row.id, row.email, row.status, row.attempts, outcome, self.facts.retries)
        if result is not None:
            self.add(result)
        elif outcome.verdict in (Verdict.RELAY_FAULT, Verdict.THROTTLED):
            self.faults[row.id] += 1
            if self.faults[row.id] < FAULTS_TOLERATED:
                self.worklist.append(row)
            else:
                self.left_for_later = True
        elif outcome.verdict is Verdict.NOT_STARTED and not self.stop:
            self.worklist.appendleft(row)
        return result


class Email:
    """One email on its way through the engine: see `services.sender.smtp.contract.Job`."""

    __slots__ = ("_allowed", "_body", "hand", "mail_from", "rcpt_to", "row", "smtputf8")

    def __init__(self, hand: Hand, row: WorklistRow, body: "bytes | asyncio.Future[bytes]", allowed: "Allowed") -> None:
        self.hand = hand
        self.row = row
        self.mail_from = hand.facts.envelope_from
        self.rcpt_to = row.email
        self.smtputf8 = hand.facts.builder.needs_smtputf8(row.email)
        self._body = body
        self._allowed = allowed

    def body(self) -> "bytes | asyncio.Future[bytes]":
        return self._body

    def may_send_body(self) -> "bool | asyncio.Future[bool]":
        return self._allowed(self)


Allowed = Callable[[Email], "bool | asyncio.Future[bool]"]


def render(hand: Hand, row: WorklistRow) -> bytes | Callable[[], bytes]:
    """The message to one recipient, or what signs it. Raises DataError where the values do not fit the template."""
    facts = hand.facts
    data = orjson.loads(row.data) if row.data else {}
    if not isinstance(data, dict):
        raise DataError("the merge fields are not a JSON object")
    facts_of_email = (row.id, row.email, data, hand.date, facts.unsubscribe_url(row.id))
    if facts.signer is None:
        return facts.builder.build(*facts_of_email)
    return partial(facts.signer.sign, facts.builder.build_unsigned(*facts_of_email))
