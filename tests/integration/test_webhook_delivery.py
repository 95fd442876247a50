"""Webhooks end to end in one process: outbox, delivery, a receiver that verifies; both ledgers."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhooks import delivery
from services.webhooks.courier import Courier
from services.webhooks.delivery import SET_ASIDE_IN_A_ROW, Delivery
from services.webhooks.http import Answer
from services.webhooks.metrics import WebhookMetrics
from shared.ledger import audit, outbox, webhooks
from shared.ledger.audit import Wanted
from shared.ledger.database import Ledger
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.outbox_tables import EventStream
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSetAside
from shared.metrics import Metrics
from shared.settings import WebhooksSettings, load

URL = "https://receiver.test/hook"
GIVE_UP = 3600.0
Judge = Callable[[list[int]], int]


@dataclass
class Receiver:
    """Stands for the internet: one receiver, which verifies every POST before it takes it."""

    secrets: list[str]
    #: The status for a POST with these numbers.
    judge: Judge = lambda _numbers: 200
    retry_after: float = 0.0
    got: list[int] = field(default_factory=list)
    posts: list[list[int]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        assert url == URL
        for secret in self.secrets:
            Webhook(secret).verify(body, dict(headers))
        events = orjson.loads(body)["data"]
        numbers = [event["data"].get("number", -1) for event in events]
        self.posts.append(numbers)
        status = self.judge(numbers)
        if 200 <= status < 300:
            self.got += numbers
            self.ids += [event["id"] for event in events]
            return Answer(status)
        return Answer(status or None, "no", self.retry_after)


@dataclass
class Rig:
    ledger: Ledger
    id: UUID
    receiver: Receiver
    delivery: Delivery

    async def tell(self, *numbers: int, kind: FactType = FactType.RECIPIENT_SENT) -> None:
        async with self.ledger.write() as connection:
            await outbox.tell(
                connection, DEFAULT_PROJECT, [Fact(kind, details={"number": number}) for number in numbers]
            )
        await outbox.place(self.ledger)

    async def run(self) -> None:
        """One delivery, whatever `next_attempt_at` says."""
        await self.delivery.run(self.id)

    async def row(self) -> Any:
        async with self.ledger.read() as connection:
            return (await connection.execute(select(WebhookEndpoint.__table__))).one()  # type: ignore[attr-defined]

    async def set_aside(self) -> list[int]:
        async with self.ledger.read() as connection:
            found = await connection.execute(
                select(col(WebhookSetAside.position)).order_by(col(WebhookSetAside.position))
            )
            return list(found.scalars())

    async def set(self, **values: Any) -> None:
        async with self.ledger.write() as connection:
            await connection.execute(update(WebhookEndpoint).values(**values))

    async def due(self) -> list[UUID]:
        async with self.ledger.read() as connection:
            return list(await webhooks.due(connection, uuid4().hex, (), 10))

    def another(self, receiver: Receiver | None = None) -> Delivery:
        """What another process would do."""
        metrics = WebhookMetrics(Metrics("webhooks"), self.ledger)
        return Delivery(self.ledger, receiver or self.receiver, metrics, uuid4().hex, GIVE_UP)


@pytest.fixture
async def rig(ledger: Ledger) -> Rig:
    async with ledger.write() as connection:
        endpoint_id, secret = await webhooks.create(connection, DEFAULT_PROJECT, URL, ())
    receiver = Receiver([secret])
    metrics = WebhookMetrics(Metrics("webhooks"), ledger)
    return Rig(ledger, endpoint_id, receiver, Delivery(ledger, receiver, metrics, uuid4().hex, GIVE_UP))


async def test_events_are_delivered_in_order_in_batches(rig: Rig) -> None:
    await rig.tell(*range(1200))
    await rig.run()
    assert rig.receiver.got == list(range(1200))
    assert [len(post) for post in rig.receiver.posts] == [500, 500, 200]
    assert len(set(rig.receiver.ids)) == 1200
    row = await rig.row()
    assert (row.cursor, row.failures, row.last_status, row.lease_owner) == (1200, 0, 200, None)
    assert await rig.due() == []


async def test_a_backlog_takes_two_writes_for_each_claim_however_many_batches_it_has(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite each of them holds up the senders."""
    monkeypatch.setattr(delivery, "CLAIM_SECONDS", 3600.0)
    await rig.tell(*range(2200))
    writes: list[int] = []

    async def count(_connection: AsyncConnection) -> None:
        writes.append(len(rig.receiver.posts))

    rig.ledger.before_commit = count
    await rig.run()
    assert rig.receiver.got == list(range(2200))
    assert writes == [0, 5], "the claim, and what was accepted with the end of the claim"
    await rig.tell(*range(2200, 3000))
    writes.clear()
    monkeypatch.setattr(delivery, "CLAIM_SECONDS", 0.0)
    await rig.run()
    assert rig.receiver.got == list(range(3000))
    assert writes == [5, 6, 6, 7], "a slow endpoint: each batch is noted"


async def test_what_an_endpoint_took_before_it_failed_is_noted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CLAIM_SECONDS", 3600.0)
    rig.receiver.judge = lambda numbers: 500 if 700 in numbers else 200
    await rig.set(failures=3, failing_since=1.0)
    await rig.tell(*range(1200))
    await rig.run()
    row = await rig.row()
    assert (row.cursor, row.failures, row.last_status, row.lease_owner) == (500, 1, 500, None)
    assert row.failing_since > 1.0
    assert row.last_success_at is not None
    rig.receiver.judge = lambda numbers: 422 if 700 in numbers else 200
    await rig.run()
    assert rig.receiver.got == [number for number in range(1200) if number != 700]
    assert await rig.set_aside() == [701]


async def test_an_endpoint_gets_what_is_written_after_it_was_made_and_of_its_types(rig: Rig) -> None:
    await rig.set(types="campaign.paused")
    await rig.tell(1, 2)
    await rig.tell(3, kind=FactType.CAMPAIGN_PAUSED)
    await rig.tell(4)
    await rig.run()
    assert rig.receiver.posts == [[3]]
    assert (await rig.row()).cursor == 4
    async with rig.ledger.write() as connection:
        later, _ = await webhooks.create(connection, DEFAULT_PROJECT, URL, ())
    await rig.another().run(later)
    assert rig.receiver.posts == [[3]]


async def test_a_refused_batch_is_halved_until_the_bad_event_is_found(rig: Rig) -> None:
    rig.receiver.judge = lambda numbers: 422 if 37 in numbers else 200
    await rig.tell(*range(100))
    await rig.run()
    assert rig.receiver.got == [number for number in range(100) if number != 37]
    assert await rig.set_aside() == [38]
    assert len(rig.receiver.posts) < 30
    row = await rig.row()
    assert (row.cursor, row.failing_since) == (100, None)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_every_bad_event_of_a_full_batch_is_found_and_no_other_is_lost(rig: Rig, status: int) -> None:
    bad = {0, 1, 7, 249, 250, 251, 400, 499}
    rig.receiver.judge = lambda numbers: status if bad & set(numbers) else 200
    await rig.tell(*range(500))
    await rig.run()
    assert rig.receiver.got == [number for number in range(500) if number not in bad]
    assert await rig.set_aside() == [number + 1 for number in sorted(bad)]
    assert len(rig.receiver.posts) < 20 * len(bad)


async def test_an_endpoint_that_takes_only_small_bodies_gets_everything(rig: Rig) -> None:
    rig.receiver.judge = lambda numbers: 413 if len(numbers) > 40 else 200
    await rig.tell(*range(500))
    await rig.run()
    assert rig.receiver.got == list(range(500))
    assert await rig.set_aside() == []


async def test_an_endpoint_says_when_it_wants_the_next_try(rig: Rig) -> None:
    rig.receiver.judge = lambda _numbers: 429
    rig.receiver.retry_after = 600.0
    await rig.tell(1, 2)
    await rig.run()
    row = await rig.row()
    assert 590 < row.next_attempt_at - await rig.ledger.now() <= 600
    assert (row.failures, row.cursor) == (1, 0)
    assert await rig.due() == []


async def test_what_was_set_aside_is_delivered_when_a_person_asks(rig: Rig) -> None:
    rig.receiver.judge = lambda numbers: 400 if {1, 3} & set(numbers) else 200
    await rig.tell(*range(5))
    await rig.run()
    assert await rig.set_aside() == [2, 4]
    assert await rig.due() == []
    rig.receiver.judge = lambda numbers: 400 if 3 in numbers else 200
    async with rig.ledger.write() as connection:
        assert await webhooks.retry_set_aside(connection, rig.id) == 2
    assert await rig.due() == [rig.id]
    await rig.run()
    assert rig.receiver.got == [0, 2, 4, 1]
    assert await rig.set_aside() == [4], "refused again"
    assert await rig.due() == []


async def test_an_endpoint_that_refuses_everything_loses_few_events_and_waits(rig: Rig) -> None:
    """It is broken: the events are not."""
    rig.receiver.judge = lambda _numbers: 404
    await rig.tell(*range(50))
    await rig.run()
    assert await rig.set_aside() == [1, 2, 3][:SET_ASIDE_IN_A_ROW]
    row = await rig.row()
    assert row.failing_since is not None
    assert (row.cursor, row.last_status) == (SET_ASIDE_IN_A_ROW, 404)
    rig.receiver.judge = lambda _numbers: 200
    await rig.run()
    assert rig.receiver.got == list(range(SET_ASIDE_IN_A_ROW, 50))
    assert (await rig.row()).refused_in_a_row == 0


@pytest.mark.parametrize("status", [0, 302, 401, 429, 500, 503])
async def test_a_failure_keeps_the_order_and_waits_longer_each_time(rig: Rig, status: int) -> None:
    rig.receiver.judge = lambda _numbers: status
    await rig.tell(1, 2, 3)
    await rig.run()
    await rig.run()
    row = await rig.row()
    assert (row.cursor, row.failures, row.last_error, row.state) == (0, 2, "no", "active")
    assert rig.receiver.posts == [[1, 2, 3]] * 2, "not halved"
    assert await rig.due() == [], "not yet"
    now = await rig.ledger.now()
    assert 8.0 - 5 < row.next_attempt_at - now <= 12.0
    rig.receiver.judge = lambda _numbers: 204
    await rig.set(next_attempt_at=None)
    await rig.run()
    assert rig.receiver.got == [1, 2, 3]
    assert (await rig.row()).failing_since is None


async def test_an_endpoint_that_fails_for_too_long_is_disabled_and_told(rig: Rig) -> None:
    rig.receiver.judge = lambda _numbers: 500
    await rig.tell(1)
    await rig.run()
    await rig.set(failing_since=col(WebhookEndpoint.failing_since) - GIVE_UP)
    await rig.run()
    assert (await rig.row()).state == "active", "it was tried too seldom: the service was off, or the clock was set"
    await rig.set(failures=delivery.failures_within(GIVE_UP))
    await rig.run()
    assert (await rig.row()).state == "disabled"
    await outbox.place(rig.ledger)
    async with rig.ledger.read() as connection:
        entries = await audit.list_entries(connection, Wanted(project_id=DEFAULT_PROJECT))
    assert [(entry.action, entry.target) for entry in entries] == [("disable", f"webhook_id={rig.id}")]
    await rig.set(state="active", failing_since=None, next_attempt_at=None)
    rig.receiver.judge = lambda _numbers: 200
    await rig.run()
    assert rig.receiver.got == [1, -1], "it goes on where it was, and learns that it was disabled"


def test_three_days_have_many_tries() -> None:
    waits = [5, 10, 30, 60, 300, 900, 1800, *[3600] * 200]
    for days in (0.01, 1, 3):
        seconds, waited, failures = days * 86_400, 0.0, 1
        for wait in waits:
            waited += 1.2 * wait
            failures += waited <= seconds
        assert delivery.failures_within(seconds) == failures


async def test_an_endpoint_that_says_that_it_is_gone_is_disabled_soon_but_not_at_once(rig: Rig) -> None:
    rig.receiver.judge = lambda _numbers: 410
    await rig.tell(1, 2)
    states = []
    for _ in range(delivery.GONE_TRIES):
        await rig.run()
        states.append((await rig.row()).state)
    assert states == ["active"] * (delivery.GONE_TRIES - 1) + ["disabled"]
    assert await rig.set_aside() == []
    await rig.set(state="active", failing_since=None, failures=0, next_attempt_at=None)
    rig.receiver.judge = lambda _numbers: 200
    await rig.run()
    assert rig.receiver.got == [1, 2], "nothing is lost"


async def test_the_clock_may_be_set_back(rig: Rig) -> None:
    """Moments that the ledger holds are then far ahead."""
    far = await rig.ledger.now() + 86_400
    await rig.tell(1)
    await rig.set(lease_owner="killed", lease_until=far, next_attempt_at=far)
    assert await rig.due() == [rig.id]
    await rig.run()
    assert rig.receiver.got == [1]


async def test_what_is_set_aside_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST_SET_ASIDE", 5)
    rig.receiver.judge = lambda numbers: 422 if any(number % 2 for number in numbers) else 200
    await rig.tell(*range(20))
    await rig.run()
    assert await rig.set_aside() == [2, 4, 6, 8, 10]
    row = await rig.row()
    assert (row.failures, row.cursor) == (1, 11), "it waits for a person"
    await outbox.forget(rig.ledger, -1.0, 10)
    await rig.tell(*range(20, 30))
    await rig.run()
    assert await rig.set_aside() == [22, 24, 26, 28, 30], "those past their retention are forgotten"


async def test_endpoints_that_never_end_share_the_places_with_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answers in time, and there is always more for it: it would keep its place for good."""
    monkeypatch.setattr(delivery, "SLICE_SECONDS", 0.0)
    async with rig.ledger.write() as connection:
        others = [(await webhooks.create(connection, DEFAULT_PROJECT, f"{URL}/{at}", ()))[0] for at in range(3)]
    posts: list[str] = []

    class Endless:
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            posts.append(url)
            await rig.tell(len(posts))
            return Answer(200)

    metrics = WebhookMetrics(Metrics("webhooks"), rig.ledger)
    settings = load(WebhooksSettings, amqp_url="amqp://127.0.0.1:1/", webhook_deliveries=1)
    courier = Courier(settings, rig.ledger, Endless(), metrics)
    await rig.tell(0)
    async with asyncio.timeout(60):
        while len(set(posts)) < 1 + len(others):
            await courier.look()
            await asyncio.sleep(0.01)
    await courier.drain()


async def test_an_endpoint_that_wants_none_of_the_events_takes_its_turn_like_the_others(rig: Rig) -> None:
    """It never has a success, and with each new event there is something to look through for it."""
    await rig.set(types="campaign.paused")
    async with rig.ledger.write() as connection:
        other, _ = await webhooks.create(connection, DEFAULT_PROJECT, URL, ())
    rig.receiver.secrets = []
    turns: list[UUID] = []
    for number in range(6):
        await rig.tell(number)
        async with rig.ledger.read() as connection:
            turns += await webhooks.due(connection, uuid4().hex, (), 1)
        await rig.delivery.run(turns[-1])
    assert set(turns) == {rig.id, other}


async def test_a_slow_endpoint_delays_no_other(rig: Rig) -> None:
    async with rig.ledger.write() as connection:
        other, other_secret = await webhooks.create(connection, DEFAULT_PROJECT, URL + "/slow", ())
    await rig.tell(1, 2)
    hanging, arrived = asyncio.Event(), asyncio.Event()

    class Two:
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            if url.endswith("/slow"):
                hanging.set()
                await asyncio.Event().wait()
            answer = await rig.receiver.post(url, headers, body)
            arrived.set()
            return answer

    metrics = WebhookMetrics(Metrics("webhooks"), rig.ledger)
    settings = load(WebhooksSettings, amqp_url="amqp://127.0.0.1:1/")
    courier = Courier(settings, rig.ledger, Two(), metrics)
    async with asyncio.timeout(60):
        await courier.look()
        await hanging.wait()
        await arrived.wait()
        await rig.tell(3)
        while 3 not in rig.receiver.got:
            await courier.look()
            await asyncio.sleep(0.01)
    await courier.drain()
    assert rig.receiver.got == [1, 2, 3]
    assert other_secret != rig.receiver.secrets[0]
    async with rig.ledger.read() as connection:
        assert other in await webhooks.due(connection, uuid4().hex, (), 10), "its lease was given back"


async def test_a_killed_process_loses_nothing_and_keeps_the_order(rig: Rig) -> None:
    """It dies after the endpoint has taken a batch, before it has noted that."""
    await rig.tell(*range(700))

    class KilledError(Exception):
        pass

    class Killed(Receiver):
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            await super().post(url, headers, body)
            raise KilledError

    killed = Killed(rig.receiver.secrets)
    victim = rig.another(killed)
    async with rig.ledger.write() as connection:
        assert await webhooks.claim(connection, rig.id, "the victim", 60.0) is not None
    assert await rig.due() == [], "its lease protects it from other processes"
    await rig.run()
    assert rig.receiver.got == []
    await rig.set(lease_owner=None, lease_until=None)
    with pytest.raises(KilledError):
        await victim.run(rig.id)
    await rig.run()
    assert killed.got == list(range(500))
    assert rig.receiver.got == list(range(700)), "at least once, from where it was noted"
    assert rig.receiver.ids[:500] == killed.ids, "with the same ids"


async def test_a_replay_begins_again_even_during_a_delivery(rig: Rig) -> None:
    await rig.tell(1, 2)
    await rig.run()
    async with rig.ledger.write() as connection:
        await webhooks.replay(connection, rig.id, DEFAULT_PROJECT, 0.0)
    await rig.run()
    assert rig.receiver.got == [1, 2, 1, 2]
    await rig.tell(3)

    class Replayed(Receiver):
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            answer = await super().post(url, headers, body)
            if len(self.posts) == 1:
                async with rig.ledger.write() as connection:
                    await webhooks.replay(connection, rig.id, DEFAULT_PROJECT, 0.0)
            return answer

    receiver = Replayed(rig.receiver.secrets)
    await rig.another(receiver).run(rig.id)
    assert receiver.got == [3, 1, 2, 3]


async def test_two_secrets_sign_while_one_is_rotated_and_one_afterwards(rig: Rig) -> None:
    [old] = rig.receiver.secrets
    async with rig.ledger.write() as connection:
        new = await webhooks.rotate(connection, rig.id, 3600.0)
    rig.receiver.secrets = [old, new]
    await rig.tell(1)
    await rig.run()
    async with rig.ledger.write() as connection:
        newest = await webhooks.rotate(connection, rig.id, -1.0)
    async with rig.ledger.read() as connection:
        assert await webhooks.valid_secrets(connection, rig.id) == [newest, old]
    assert rig.receiver.got == [1]


async def test_a_receiver_that_changes_its_secret_during_a_post_loses_nothing(rig: Rig) -> None:
    """The POST is signed before the rotation, and judged after it by a receiver that knows the new secret alone."""

    class Changing(Receiver):
        async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            if not self.secrets:
                async with rig.ledger.write() as connection:
                    self.secrets = [await webhooks.rotate(connection, rig.id, 3600.0)]
            try:
                return await super().post(url, headers, body)
            except WebhookVerificationError:
                return Answer(401, "unknown signature")

    receiver = Changing([])
    changing = rig.another(receiver)
    await rig.tell(1, 2)
    await changing.run(rig.id)
    assert (receiver.got, (await rig.row()).failures) == ([], 1)
    await changing.run(rig.id)
    assert receiver.got == [1, 2]
    assert await rig.set_aside() == []


async def test_a_test_goes_only_to_the_endpoint_it_tests(rig: Rig) -> None:
    async with rig.ledger.write() as connection:
        for webhook_id in (uuid4(), rig.id):
            details = {"webhook_id": str(webhook_id), "number": 7 if webhook_id == rig.id else 8}
            await outbox.tell(connection, DEFAULT_PROJECT, [Fact(FactType.WEBHOOK_TEST, details=details)])
    await outbox.place(rig.ledger)
    await rig.run()
    assert rig.receiver.got == [7]
    assert (await rig.row()).cursor == 2


async def test_a_body_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH_BYTES", 2000)
    await rig.tell(*range(50))
    await rig.run()
    assert rig.receiver.got == list(range(50))
    assert len(rig.receiver.posts) > 3


async def test_an_endpoint_behind_the_retention_goes_on(rig: Rig) -> None:
    await rig.tell(1, 2)
    await outbox.forget(rig.ledger, -1.0, 10)
    await rig.tell(3)
    await rig.run()
    assert rig.receiver.got == [3]
    assert (await rig.row()).cursor == 3


async def test_a_project_of_which_the_last_endpoint_is_gone_wants_nothing(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT))
        await webhooks.create(connection, DEFAULT_PROJECT, URL, ())
        assert await outbox.wants(connection, DEFAULT_PROJECT)
        await connection.execute(WebhookEndpoint.__table__.delete())  # type: ignore[attr-defined]
        await webhooks.update_wanted(connection, DEFAULT_PROJECT)
        assert not await outbox.wants(connection, DEFAULT_PROJECT)
