"""The sender as a separate process, with a real broker, both databases and a relay that records what it received."""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import aio_pika
import httpx
import pytest
from sqlalchemy import func, insert, select, update
from sqlmodel import col

from shared import topology
from shared.events import BatchReleased
from shared.ledger.counts import STATUSES, counts
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient, Suppression, Timeline
from tests.conftest import ServiceFactory
from tests.support.broker import BrokerVhost
from tests.support.processes import ServiceProcess
from tests.support.relay import After, RecordingRelay
from tests.support.seeds import Seeded, seed_campaign
from tests.support.waiting import until


@pytest.fixture
async def vhost(broker_vhost: BrokerVhost) -> BrokerVhost:
    await topology.declare(broker_vhost.admin_url)
    return broker_vhost


LaunchSender = Callable[..., ServiceProcess]


@pytest.fixture
def launch_sender(
    service_process: ServiceFactory, database_url: str, vhost: BrokerVhost, relay: RecordingRelay
) -> LaunchSender:
    def launch(name: str = "sender", **settings: str) -> ServiceProcess:
        environment = {
            "VASHSENDER_DATABASE_URL": database_url,
            "VASHSENDER_AMQP_URL": vhost.services_url,
            "VASHSENDER_RELAYS": relay.url,
            "VASHSENDER_SMTP_CONNECTIONS": "4",
            **{f"VASHSENDER_{key.upper()}": value for key, value in settings.items()},
        }
        return service_process("sender", environment, name=name)

    return launch


async def release(vhost: BrokerVhost, seeded: Seeded, *, times: int = 1) -> None:
    connection = await aio_pika.connect(vhost.services_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE, ensure=False)
        for batch_id in seeded.batch_ids:
            event = BatchReleased(batch_id=batch_id, campaign_id=seeded.id, generation=1)
            for _ in range(times):
                message = aio_pika.Message(event.model_dump_json().encode(), content_type="application/json")
                await exchange.publish(message, event.ROUTING_KEY)


async def state_of(ledger: Ledger, campaign_id: UUID) -> dict[str, int]:
    async with ledger.read() as connection:
        found = dict(await counts(connection, campaign_id))
    assert sum(found[status] for status in STATUSES) == found["total"]
    return found


async def metrics_of(sender: ServiceProcess) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{sender.http_url}/metrics")).text


async def batch_states(ledger: Ledger) -> list[str]:
    async with ledger.read() as connection:
        return list((await connection.execute(select(col(Batch.state)).order_by(col(Batch.id)))).scalars())


async def test_tickets_are_delivered_recorded_and_finished(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.rcpt = lambda rcpt, _tries: b"550 5.1.1 no such user\r\n" if rcpt.startswith("person-7@") else None
    relay.behaviour.dot = lambda rcpt, tries: (
        b"451 4.2.0 later\r\n" if rcpt.startswith("person-8@") and not tries else After.ACCEPT
    )
    seeded = await seed_campaign(ledger, 300, batch_size=100)
    sender = launch_sender(ticket_patience_seconds="3600")
    await sender.wait_ready()
    await release(vhost, seeded, times=2)

    async def settled() -> bool:
        return await batch_states(ledger) == ["waiting", "done", "done"]

    await until(settled)
    found = await state_of(ledger, seeded.id)
    assert (found["sent"], found["failed"], found["deferred"]) == (298, 1, 1)
    assert len(relay.received) == 298
    assert relay.duplicates == 0
    assert len({email.message_id for email in relay.received}) == 298
    metrics = await metrics_of(sender)
    assert 'vashsender_emails_total{outcome="sent",reply_class="2"} 298.0' in metrics
    assert 'vashsender_wakeups_total{cause="clock"} 0.0' in metrics


async def test_lost_tickets_cost_seconds_not_mail(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    """No event at all: the sender's clock finds what was released."""
    seeded = await seed_campaign(ledger, 50)
    launch_sender(ticket_patience_seconds="0.2", clock_seconds="0.2")
    await until(lambda: len(relay.received) == 50)

    async def done() -> bool:
        return (await state_of(ledger, seeded.id))["sent"] == 50

    await until(done)


async def test_sigterm_finishes_what_is_in_flight_and_gives_the_rest_back(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.05
    seeded = await seed_campaign(ledger, 400)
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)
    await until(lambda: len(relay.received) > 20)
    await sender.stop()
    found = await state_of(ledger, seeded.id)
    assert found["sent"] == len(relay.received) < 400
    assert found["pending"] == 400 - found["sent"]
    assert set(await batch_states(ledger)) == {"waiting"} | ({"released"} if len(seeded.batch_ids) > 2 else set())


async def test_a_pause_bites_within_a_second(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.02
    seeded = await seed_campaign(ledger, 1000, batch_size=500)
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)
    await until(lambda: len(relay.received) > 20)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="paused"))
    answered = time.monotonic()

    async def given_back() -> bool:
        return await batch_states(ledger) == ["waiting", "waiting"]

    await until(given_back)
    assert max(at for at, _ in relay.first_bytes) - answered < 1.0
    assert (await state_of(ledger, seeded.id))["sent"] == len(relay.received)
    async with ledger.read() as connection:
        dates = (await connection.execute(select(col(Batch.dated_at)))).scalars().all()
    assert dates == [None, None], "after a long pause, emails that never left get a new Date"


async def test_a_suppression_bites_within_a_second_in_a_batch_that_is_held(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.05
    seeded = await seed_campaign(ledger, 300, batch_size=300)
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)
    await until(lambda: len(relay.received) > 20)
    keys = [f"person-{number}@example.test" for number in range(40, 300, 2)]
    async with ledger.write() as connection:
        await connection.execute(
            insert(Suppression).values(created_at=db_now(), project_id=DEFAULT_PROJECT, reason="unsubscribed"),
            [{"email": key, "email_key": key} for key in keys],
        )
    committed = time.monotonic()

    async def done() -> bool:
        return await batch_states(ledger) == ["done"]

    await until(done)
    late = [rcpt for at, rcpt in relay.first_bytes if at > committed + 1.0 and rcpt in keys]
    assert late == []
    found = await state_of(ledger, seeded.id)
    assert found["suppressed"] > 90
    assert found["sent"] == len(relay.received) == 300 - found["suppressed"]


async def test_a_lost_batch_stops_and_its_late_facts_are_recorded(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.05
    seeded = await seed_campaign(ledger, 400, batch_size=400)
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)
    await until(lambda: len(relay.received) > 20)
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch).values(
                generation=col(Batch.generation) + 1, state="waiting", owner=None, due_at=db_now() + 99
            )
        )

    async def counted() -> bool:
        metrics = await metrics_of(sender)
        return (
            "vashsender_lease_lost_total 1.0" in metrics
            and "vashsender_batches_in_hand 0.0" in metrics
            and (await state_of(ledger, seeded.id))["sent"] == len(relay.received)
        )

    await until(counted)
    assert len(relay.received) < 400


async def test_after_kill_9_the_same_slot_takes_its_batches_back(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.02
    seeded = await seed_campaign(ledger, 500)
    first = launch_sender(slot="sender-1")
    await first.wait_ready()
    await release(vhost, seeded)
    await until(lambda: len(relay.received) > 50)
    await asyncio.to_thread(first.kill)
    await asyncio.to_thread(first.launch)

    async def rescued() -> bool:
        async with ledger.read() as connection:
            kinds = (await connection.execute(select(col(Timeline.kind)))).scalars().all()
        return "rescued" in kinds

    await until(rescued, 10)
    found = await state_of(ledger, seeded.id)
    missing = len(relay.copies) - found["sent"]
    assert 0 <= missing <= 4 + 64, "at most the open connections and 64 unrecorded results"


async def test_at_most_once_ends_a_silent_relay_as_unknown(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.dot = lambda rcpt, _tries: After.DROP if rcpt.startswith("person-3@") else After.ACCEPT
    seeded = await seed_campaign(ledger, 10, delivery="at_most_once")
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)

    async def done() -> bool:
        return await batch_states(ledger) == ["done"]

    await until(done)
    found = await state_of(ledger, seeded.id)
    assert (found["sent"], found["unknown"]) == (9, 1)
    assert relay.duplicates == 0


async def intended(ledger: Ledger) -> int:
    """Open recipients whose body may have left, as far as the ledger knows."""
    async with ledger.read() as connection:
        is_open = col(Recipient.status).in_(("pending", "deferred"))
        found = await connection.execute(
            select(func.count()).where(is_open, col(Recipient.intent_at).is_not(None)).select_from(Recipient)
        )
        return int(found.scalar_one())


async def given_back(ledger: Ledger) -> bool:
    return not {"released", "sending"} & set(await batch_states(ledger))


async def release_again(ledger: Ledger) -> None:
    """The dispatcher's part after a resume."""
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="sending"))
        await connection.execute(
            update(Batch).where(col(Batch.state) == "waiting").values(state="released", released_at=0.0)
        )


@pytest.mark.more
async def test_at_most_once_a_pause_makes_no_recipient_unknown(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    """Some emails have their intent in the ledger when the pause comes, and no body has left."""
    seeded = await seed_campaign(ledger, 3000, batch_size=1500, delivery="at_most_once")
    launch_sender(ticket_patience_seconds="0", clock_seconds="0.1")
    for _ in range(3):
        received = len(relay.received)
        await until(lambda received=received: len(relay.received) > received + 100)  # type: ignore[misc]
        async with ledger.write() as connection:
            await connection.execute(update(Campaign).values(status="paused"))
        await until(lambda: given_back(ledger))
        assert await intended(ledger) == 0
        await release_again(ledger)

    async def done() -> bool:
        return set(await batch_states(ledger)) == {"done"}

    await until(done)
    assert (await state_of(ledger, seeded.id))["sent"] == 3000
    assert relay.duplicates == 0


async def test_at_most_once_a_stopped_sender_leaves_no_intent(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    seeded = await seed_campaign(ledger, 1000, batch_size=500, delivery="at_most_once")
    sender = launch_sender(ticket_patience_seconds="0", clock_seconds="0.1")
    await until(lambda: len(relay.received) > 100)
    await sender.stop()
    found = await state_of(ledger, seeded.id)
    assert found["sent"] == len(relay.received) < 1000
    assert found["unknown"] == 0
    assert await intended(ledger) == 0


async def test_a_refused_sender_address_pauses_the_campaign_and_fails_no_recipient(
    ledger: Ledger, vhost: BrokerVhost, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.mail = lambda: b"550 5.1.8 who are you\r\n"
    seeded = await seed_campaign(ledger, 20)
    sender = launch_sender()
    await sender.wait_ready()
    await release(vhost, seeded)

    async def paused() -> bool:
        async with ledger.read() as connection:
            return (await connection.execute(select(col(Campaign.status)))).scalar_one() == "paused"

    await until(paused)
    assert (await state_of(ledger, seeded.id))["pending"] == 20
    async with ledger.read() as connection:
        reason = (await connection.execute(select(col(Campaign.reason)))).scalar_one()
        attempts = (await connection.execute(select(col(Recipient.attempts)).distinct())).scalars().all()
    assert "who are you" in (reason or "")
    assert attempts == [0]
