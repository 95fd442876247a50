"""A model of the ledger: in any order of events no recipient is lost, none gets two emails without a reason, and every
campaign ends. It runs the services' own code; only SMTP and time are simulated."""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, text

from services.sender.db import claims
from services.sender.db.record import Group, record
from services.sender.db.worklist import read_worklist
from services.sender.results import Result
from services.watchdog import sweep
from shared.events import BatchProgress, SenderHeartbeat
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT, Campaign, RateLimit
from shared.ledger.rollups import roll_up
from shared.ledger.states import FINAL
from tests.support.api import NDJSON, ApiRig, api_on, ndjson
from tests.support.ledger import assert_sound
from tests.support.services import DispatcherRig, WatchdogRig

pytestmark = pytest.mark.more

EXAMPLES = int(os.environ.get("LEDGER_MODEL_EXAMPLES", "8"))
STEPS = int(os.environ.get("LEDGER_MODEL_STEPS", "30"))
LEASE = 15.0
EDITABLE = ("draft", "scheduled")
ACTIONS = ("send", "pause", "resume", "cancel", "retry-failed", "resolve-unknown")
MOMENTS = {
    "batch": ("due_at", "released_at", "lease_until", "claimed_at"),
    "recipient": ("next_attempt_at",),
    "rate_limit": ("free_at",),
    "campaign": ("scheduled_at",),
}

T = TypeVar("T")


@dataclass
class World:
    """What all examples of one test share: a database, an API and an event loop."""

    runner: asyncio.Runner
    ledger: Ledger
    api: ApiRig

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


@dataclass(eq=False)
class Hand:
    """A batch that a sender holds. `fenced`: its lease has expired by its own clock, so it starts no email."""

    claim: claims.Claim
    at_most_once: bool
    fenced: bool = False
    after_id: int = 0
    unrecorded: list[Result] = field(default_factory=list)

    def group(self, results: list[Result], intents: list[int] | None = None) -> Group:
        claim = self.claim
        return Group(claim.batch_id, claim.generation, claim.campaign_id, DEFAULT_PROJECT, results, intents or [])


picks = st.integers(0, 10_000)
outcomes = st.lists(st.sampled_from(["sent", "sent", "failed", "deferred", "unknown"]), min_size=1, max_size=6)


class LedgerModel(RuleBasedStateMachine):
    """`copies` counts what the relay took, by recipient. `reasons` counts why it may have taken one more: its sender
    died or was stopped before it could record, or a person wanted unknown ones sent again."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.dispatchers = [DispatcherRig.on(self.world.ledger, batch_size=5, window_floor=3) for _ in range(2)]
        self.watchdogs = [WatchdogRig.on(self.world.ledger) for _ in range(2)]
        self.hands: list[Hand] = []
        self.old_tickets: list[tuple[int, int]] = []
        self.campaigns: list[str] = []
        self.copies: Counter[int] = Counter()
        self.reasons: Counter[int] = Counter()
        self.facts: set[int] = set()
        self.generations: dict[int, int] = {}

    # -- clients

    @initialize()
    def begin_empty(self) -> None:
        async def clear() -> None:
            async with self.world.ledger.write() as connection:
                await connection.execute(delete(Campaign))
                await connection.execute(delete(RateLimit))
                await connection.execute(text("DELETE FROM suppression"))

        self.world.run(clear())

    @rule(
        recipients=st.integers(0, 17),
        delivery=st.sampled_from(["at_least_once", "at_most_once"]),
        rate=st.sampled_from([None, None, 2.0, 1000.0]),
        send=st.booleans(),
    )
    @precondition(lambda self: len(self.campaigns) < 4)
    def create(self, recipients: int, delivery: str, rate: float | None, send: bool) -> None:
        fields = {"delivery": delivery, "max_retries": 2, "emails_per_second": rate}
        campaign = self.world.run(self.world.api.create(recipients, **fields))
        self.campaigns.append(campaign)
        if send:
            self.act("send", len(self.campaigns) - 1, False)

    @rule(pick=picks, first=st.integers(0, 20), number=st.integers(1, 9))
    @precondition(lambda self: self.campaigns)
    def load(self, pick: int, first: int, number: int) -> None:
        rows = [{"email": f"person-{n}@example.test"} for n in range(first, first + number)]
        self.post(f"{self.pick(self.campaigns, pick)}/recipients", (201, 409), content=ndjson(rows), headers=NDJSON)

    @rule(action=st.sampled_from(ACTIONS), pick=picks, resend=st.booleans())
    @precondition(lambda self: self.campaigns)
    def act(self, action: str, pick: int, resend: bool) -> None:
        campaign = self.pick(self.campaigns, pick)
        body = {"as": "resend" if resend else "sent"} if action == "resolve-unknown" else {}
        self.post(f"{campaign}/{action}", (202, 409), json=body)

    @rule(pick=picks)
    @precondition(lambda self: self.campaigns)
    def deadline_passes(self, pick: int) -> None:
        campaign = UUID(self.pick(self.campaigns, pick))
        key = campaign.hex if self.world.ledger.is_sqlite else campaign
        self.sql("UPDATE campaign SET deliver_by = 1 WHERE id = :id AND deliver_by IS NOT NULL", id=key)

    # -- dispatcher and watchdog

    @rule(which=st.sampled_from([(0,), (1,), (0, 1)]))
    def dispatch(self, which: tuple[int, ...]) -> None:
        self.at_once(*(self.dispatchers[number].round() for number in which))

    @rule(pick=picks, twice=st.booleans())
    @precondition(lambda self: self.campaigns)
    def roll_up(self, pick: int, twice: bool) -> None:
        campaign = UUID(self.pick(self.campaigns, pick))
        self.at_once(*(roll_up(self.world.ledger, campaign) for _ in range(1 + twice)))

    @rule(which=st.sampled_from([(0,), (1,), (0, 1)]))
    def look(self, which: tuple[int, ...]) -> None:
        self.at_once(*(self.watchdogs[number].watchdog.look() for number in which))

    @rule(which=st.sampled_from([(0,), (0, 1)]))
    def sweep(self, which: tuple[int, ...]) -> None:
        self.at_once(*(self.watchdogs[number].sweep() for number in which))
        assert not [
            (reason, rig.value("repairs_total", reason=reason))
            for rig in self.watchdogs
            for reason in ("counts_disagreed", "open_rows_in_closed_batch", "rows_without_batch")
            if rig.value("repairs_total", reason=reason)
        ], "it repaired something that was not broken"

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def stall(self, pick: int) -> None:
        """A sender reports that a batch makes no progress. It may be wrong."""
        claim = self.pick(self.hands, pick).claim
        progress = BatchProgress(
            batch_id=claim.batch_id,
            campaign_id=claim.campaign_id,
            generation=claim.generation,
            done=0,
            in_flight=1,
            idle_seconds=601.0,
            age_seconds=601.0,
        )
        beat = SenderHeartbeat(
            instance="s", host="h", pid=1, slots=2, uptime_seconds=1.0, emails_done=0, emails_per_second=0.0,
            batches=(progress,),
        )  # fmt: skip
        self.world.run(self.watchdogs[0].watchdog.on_heartbeat(beat))

    # -- senders

    @rule(pick=picks)
    def claim(self, pick: int) -> None:
        tickets = self.sql("SELECT id, generation FROM batch WHERE state = 'released' ORDER BY id")
        if tickets and (hand := self.claim_ticket(tuple(self.pick(tickets, pick)))):
            self.hands.append(hand)

    @rule(pick=picks)
    @precondition(lambda self: self.old_tickets)
    def an_old_ticket_comes_again(self, pick: int) -> None:
        assert self.claim_ticket(self.pick(self.old_tickets, pick)) is None

    @rule(pick=picks, wanted=outcomes)
    @precondition(lambda self: self.hands)
    def deliver(self, pick: int, wanted: list[str]) -> None:
        """Emails leave, and their results wait to be recorded."""
        self.world.run(self.deliver_some(self.pick(self.hands, pick), wanted))

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def record(self, pick: int) -> None:
        self.world.run(self.record_all(self.pick(self.hands, pick)))

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def finish(self, pick: int) -> None:
        hand = self.hands.pop(pick % len(self.hands))
        self.world.run(self.let_go(hand))

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def renew(self, pick: int) -> None:
        """A sender that was stopped and continues tries it too; then only the ledger prevents it."""
        claim = self.pick(self.hands, pick).claim
        ours = [claim.generation] == [
            row[0] for row in self.sql("SELECT generation FROM batch WHERE id = :id", id=claim.batch_id)
        ]
        assert self.world.run(claims.renew(self.world.ledger, claim.batch_id, claim.generation, LEASE)) == ours

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def die(self, pick: int) -> None:
        """kill -9: results it has not recorded are lost."""
        hand = self.hands.pop(pick % len(self.hands))
        self.excuse(hand)

    @rule(pick=picks)
    @precondition(lambda self: self.hands)
    def all_at_once(self, pick: int) -> None:
        hand = self.pick(self.hands, pick)
        rigs = [*(rig.round() for rig in self.dispatchers), *(rig.watchdog.look() for rig in self.watchdogs)]
        self.at_once(*rigs, self.record_all(hand))

    @rule(seconds=st.sampled_from([2.0, 16.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        for table, columns in MOMENTS.items():
            for column in columns:
                self.sql(f"UPDATE {table} SET {column} = {column} - :seconds", seconds=seconds)
        if seconds > LEASE:
            for hand in self.hands:
                self.fence(hand)

    # -- what must hold

    @invariant()
    def the_ledger_is_sound(self) -> None:
        self.world.run(assert_sound(self.world.ledger))

    @invariant()
    def facts_stay(self) -> None:
        rows = self.sql("SELECT id FROM recipient WHERE status = 'sent'")
        assert self.facts <= {row[0] for row in rows}

    @invariant()
    def no_recipient_gets_two_emails_without_a_reason(self) -> None:
        for recipient, copies in self.copies.items():
            assert copies <= 1 + self.reasons[recipient]

    @invariant()
    def who_holds_a_batch_is_sending_it_and_alone(self) -> None:
        """Every change of owner raised the generation: an owner that still finds its own has not lost the batch."""
        now = {row[0]: (row[1], row[2]) for row in self.sql("SELECT id, generation, state FROM batch")}
        held = [hand.claim for hand in self.hands if now[hand.claim.batch_id][0] == hand.claim.generation]
        assert all(now[claim.batch_id][1] == "sending" for claim in held)
        assert len(held) == len({claim.batch_id for claim in held})

    @invariant()
    def generations_only_grow(self) -> None:
        rows = self.sql("SELECT id, generation FROM batch")
        for batch_id, generation in rows:
            assert generation >= self.generations.get(batch_id, 0)
        self.generations = {row[0]: row[1] for row in rows}

    def teardown(self) -> None:
        """Left alone, every campaign that was sent ends, and each recipient has the email or a reason why not."""
        for hand in self.hands:
            self.fence(hand)
        self.hands.clear()
        for _ in range(80):
            for campaign in self.campaigns:
                self.post(f"{campaign}/resume", (202, 409), json={})
            self.time_passes(130.0)
            self.look((0,))
            self.dispatch((0, 1))
            for ticket in self.sql("SELECT id, generation FROM batch WHERE state = 'released' ORDER BY id"):
                if claimed := self.claim_ticket(tuple(ticket)):
                    self.world.run(self.deliver_some(claimed, ["sent"], most=1000))
                    self.world.run(self.let_go(claimed))
            self.the_ledger_is_sound()
            self.facts_stay()
            self.no_recipient_gets_two_emails_without_a_reason()
            if not self.unfinished():
                break
        else:
            pytest.fail(f"still not closed: {self.unfinished()}")
        sent_to = {row[0] for row in self.sql("SELECT id FROM recipient WHERE status = 'sent'")}
        claimed_by_people = {
            row[0] for row in self.sql("SELECT id FROM recipient WHERE relay IS NULL AND status = 'sent'")
        }
        assert sent_to - claimed_by_people <= set(self.copies)
        self.sweep((0,))

    # -- the parts that rules are made of

    def pick(self, among: Any, number: int) -> Any:
        return among[number % len(among)]

    def at_once(self, *work: Coroutine[Any, Any, object]) -> None:
        async def gather() -> None:
            await asyncio.gather(*work)

        self.world.run(gather())

    def post(self, path: str, expected: tuple[int, ...], **options: Any) -> None:
        async def post() -> None:
            answer = await self.world.api.client.post(f"/v1/campaigns/{path}", **options)
            assert answer.status_code in expected, answer.text

        self.world.run(post())

    def sql(self, statement: str, **values: Any) -> list[Any]:
        async def execute() -> list[Any]:
            async with self.world.ledger.write() as connection:
                result = await connection.execute(text(statement), values)
                return list(result.all()) if result.returns_rows else []

        return self.world.run(execute())

    def unfinished(self) -> list[Any]:
        closed = tuple(status.value for status in FINAL)
        return [row for row in self.sql("SELECT id, status FROM campaign") if row[1] not in (*closed, *EDITABLE)]

    def claim_ticket(self, ticket: tuple[int, int]) -> Hand | None:
        claim = self.world.run(claims.claim(self.world.ledger, *ticket, "sender@test", LEASE))
        self.old_tickets.append(ticket)
        if claim is None:
            return None
        key = claim.campaign_id.hex if self.world.ledger.is_sqlite else claim.campaign_id
        ((delivery,),) = self.sql("SELECT delivery FROM campaign WHERE id = :id", id=key)
        return Hand(claim, delivery == "at_most_once")

    def fence(self, hand: Hand) -> None:
        if not hand.fenced:
            hand.fenced = True
            self.excuse(hand)

    def excuse(self, hand: Hand) -> None:
        """Emails that left without a record may be sent again; under at_most_once the intent prevents that."""
        if not hand.at_most_once:
            self.reasons.update(result.recipient_id for result in hand.unrecorded if result.is_fact)

    async def deliver_some(self, hand: Hand, wanted: list[str], *, most: int = 3) -> None:
        if hand.fenced:
            return
        rows = await read_worklist(self.world.ledger, hand.claim, DEFAULT_PROJECT, hand.after_id, most)
        if not rows:
            return
        hand.after_id = rows[-1].id
        if hand.at_most_once:
            fresh = [row.id for row in rows if not row.intended]
            intended = await record(self.world.ledger, [hand.group([], fresh)], LEASE)
            if intended[hand.claim.batch_id].lost:
                return
        else:
            now, _ = await claims.look(self.world.ledger, [hand.claim.batch_id], {})
            if now[hand.claim.batch_id].generation != hand.claim.generation:
                # It has not noticed yet that the batch was taken from it: what leaves now may leave again.
                self.reasons.update(row.id for row in rows)
        for number, row in enumerate(rows):
            outcome = wanted[number % len(wanted)]
            result = Result(row.id, row.email, row.status, row.attempts, outcome, row.attempts + 1, relay="r")
            if hand.at_most_once and row.intended:
                result = result._replace(status="unknown", attempts=row.attempts, relay=None)
            elif outcome == "sent":
                self.copies[row.id] += 1
                result = result._replace(queue_id=f"q{self.copies[row.id]}")
            elif outcome == "unknown":
                self.copies[row.id] += 1
                self.reasons[row.id] += 1
            elif outcome == "deferred":
                last = row.attempts >= 2
                result = result._replace(status="failed" if last else "deferred", delay_seconds=None if last else 60.0)
            hand.unrecorded.append(result)

    async def record_all(self, hand: Hand) -> None:
        results, hand.unrecorded = hand.unrecorded, []
        if results:
            await record(self.world.ledger, [hand.group(results)], LEASE)
            self.facts |= {result.recipient_id for result in results if result.is_fact}

    async def let_go(self, hand: Hand) -> None:
        await self.record_all(hand)
        await claims.let_go(self.world.ledger, hand.claim)


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(sweep, "LOOK_AGAIN_SECONDS", 0.0)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        api = runner.run(stack.enter_async_context(api_on(database_url)))
        yield World(runner, api.ledger, api)
        runner.run(stack.aclose())


@pytest.mark.timeout(60 + EXAMPLES * STEPS)
def test_in_any_order(world: World) -> None:
    model = type("LedgerModelHere", (LedgerModel,), {"world": world})
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
