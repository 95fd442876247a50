"""A sender at its limits: batches and emails that take too long, and a batch whose emails cannot be made."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update
from sqlmodel import col

from services.sender.db import claims
from shared import topology
from shared.ledger import rate_limits
from shared.ledger.batches import takes_place
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Recipient
from tests.conftest import ServiceFactory
from tests.support.broker import BrokerVhost
from tests.support.ledger import batches_of, campaign_row, counts_by_status, timeline_of
from tests.support.processes import ServiceProcess
from tests.support.relay import After, RecordingRelay
from tests.support.seeds import Seeded, seed_campaign

pytestmark = pytest.mark.timeout(300)

LaunchSender = Callable[..., ServiceProcess]
PATIENCE_SECONDS = 100.0


@pytest.fixture
async def launch_sender(
    service_process: ServiceFactory, database_url: str, broker_vhost: BrokerVhost, relay: RecordingRelay
) -> LaunchSender:
    """A sender that finds released batches by its clock; no dispatcher releases them a second time."""
    await topology.declare(broker_vhost.admin_url)

    def launch(**settings: str) -> ServiceProcess:
        chosen = {"ticket_patience_seconds": "0", "clock_seconds": "0.1", "smtp_connections": "4", **settings}
        environment = {
            "VASHSENDER_DATABASE_URL": database_url,
            "VASHSENDER_AMQP_URL": broker_vhost.services_url,
            "VASHSENDER_RELAYS": relay.url,
            **{f"VASHSENDER_{key.upper()}": value for key, value in chosen.items()},
        }
        return service_process("sender", environment)

    return launch


async def let_go(ledger: Ledger, batches: int = 1) -> list[Any]:
    """The batches, once none of them is held or released."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with ledger.read() as connection:
                rows = (await connection.execute(select(col(Batch.state), col(Batch.due_at)))).all()
            if len(rows) == batches and all(row.state in ("waiting", "done") for row in rows):
                return list(rows)
            await asyncio.sleep(0.05)


async def replies(ledger: Ledger, status: str) -> set[str]:
    async with ledger.read() as connection:
        return set(await connection.scalars(select(col(Recipient.reply)).where(col(Recipient.status) == status)))


async def test_past_its_soft_limit_a_batch_starts_no_more_emails_and_is_given_back(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.seconds_per_email = 0.1
    seeded = await seed_campaign(ledger, 400, batch_size=400)
    launch_sender(batch_soft_seconds="1.5", batch_hard_seconds="60")
    await let_go(ledger)
    assert await counts_by_status(ledger, seeded.id) == {
        "total": 400,
        "sent": len(relay.received),
        "pending": 400 - len(relay.received),
    }
    assert 0 < len(relay.received) < 400
    assert ("yielded", "A batch was given back: it was held for 1.5 s") in await timeline_of(ledger, seeded.id)


async def test_past_its_hard_limit_a_batchs_emails_in_flight_are_aborted_and_recorded(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    """The relay has them and does not reply: they are ambiguous, and come again with the same Message-ID."""
    relay.behaviour.dot = lambda rcpt, _tries: After.SILENCE if rcpt in stuck else After.ACCEPT
    stuck = {f"person-{number}@example.test" for number in range(2)}
    seeded = await seed_campaign(ledger, 20)
    launch_sender(batch_soft_seconds="1", batch_hard_seconds="2")
    await let_go(ledger)
    assert await counts_by_status(ledger, seeded.id) == {"total": 20, "sent": 18, "deferred": 2}
    assert await replies(ledger, "deferred") == {"its batch was held for too long"}
    told = ("yielded", "A batch was given back: 2 emails in flight were aborted after 2 s")
    assert told in await timeline_of(ledger, seeded.id)


async def test_an_email_past_its_hard_limit_is_aborted_and_the_others_go_on(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.dot = lambda rcpt, _tries: After.SILENCE if rcpt == "person-0@example.test" else After.ACCEPT
    seeded = await seed_campaign(ledger, 50)
    launch_sender(email_soft_seconds="1", email_hard_seconds="2")
    await let_go(ledger)
    assert await counts_by_status(ledger, seeded.id) == {"total": 50, "sent": 49, "deferred": 1}
    assert {reply.partition(" within ")[0] for reply in await replies(ledger, "deferred")} == {"no reply"}


async def test_a_batch_whose_emails_cannot_be_made_pauses_its_campaign_and_is_sent_after_all(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    """As when another version of this program has written the content: no recipient fails, nothing goes round in
    circles, and once the reason is gone a resume is all it takes."""
    seeded = await seed_campaign(ledger, 10)
    content = (await campaign_row(ledger, seeded.id)).content
    await change(ledger, content=content.replace("Dear {{ name", "Dear {% loop name"))
    launch_sender()
    await let_go(ledger)
    campaign = await campaign_row(ledger, seeded.id)
    assert campaign.status == "paused"
    assert "its emails cannot be made" in campaign.reason
    assert await counts_by_status(ledger, seeded.id) == {"total": 10, "pending": 10}
    assert ("paused", campaign.reason) in await timeline_of(ledger, seeded.id)

    await change(ledger, content=content, status="sending")
    async with ledger.write() as connection:  # the dispatcher's part
        await connection.execute(update(Batch).values(state="released", released_at=0.0))
    await let_go(ledger)
    assert await counts_by_status(ledger, seeded.id) == {"total": 10, "sent": 10}


async def test_a_sender_without_a_relay_claims_nothing_until_one_is_back(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    relay.behaviour.banner = b"554 5.3.2 not today\r\n"
    first = await seed_campaign(ledger, 2)
    sender = launch_sender(batches_in_hand="4", relay_rest_seconds="0.5", relay_rest_max_seconds="0.5")
    await sender.wait_health("/health/ready", 503)
    assert "554" in (await campaign_row_once(ledger, first.id, "blocked_by")).blocked_by
    assert await sender.metric('vashsender_relay_resting{relay="127.0.0.1"}') == 1
    second = await seed_campaign(ledger, 20)
    probes = relay.connections
    async with asyncio.timeout(PATIENCE_SECONDS):
        while relay.connections < probes + 3:  # noqa: ASYNC110 - another process probes its relay
            await asyncio.sleep(0.1)
    [batch] = await batches_of(ledger, second.id)
    assert (batch.state, batch.owner) == ("released", None), "another sender may take it"
    relay.behaviour.banner = b"220 relay.test ESMTP\r\n"
    await let_go(ledger, 2)
    assert len(relay.received) == 22
    await sender.wait_ready()
    await campaign_row_once(ledger, first.id, "blocked_by", is_set=False)


@pytest.mark.more
@pytest.mark.parametrize("campaigns", [3, 100])
async def test_batches_with_a_rate_limit_leave_their_places_to_others(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender, campaigns: int
) -> None:
    """One place, many campaigns of one email per second each, and one without a limit behind them."""
    slow = [await seed_campaign(ledger, 60) for _ in range(campaigns)]
    async with ledger.write() as connection:
        await connection.execute(update(Batch).values(span_seconds=60.0))
        for campaign in slow:
            await rate_limits.put(connection, rate_limits.campaign_scope(campaign.id), 1.0)
    quick = await seed_campaign(ledger, 50)
    launch_sender(batches_in_hand="1")

    async def sent(campaign: Seeded) -> int:
        return (await counts_by_status(ledger, campaign.id)).get("sent", 0)

    async with asyncio.timeout(PATIENCE_SECONDS):
        while await sent(quick) < 50 or min([await sent(one) for one in slow]) < 2:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.1)
    # On a slow machine some are done by now.
    assert {batch.state for one in slow for batch in await batches_of(ledger, one.id)} <= {"sending", "done"}


async def campaign_row_once(ledger: Ledger, campaign: UUID, column: str, *, is_set: bool = True) -> Any:
    """The campaign, as soon as this column of it is set, or no longer set."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            row = await campaign_row(ledger, campaign)
            if (getattr(row, column) is not None) is is_set:
                return row
            await asyncio.sleep(0.05)


async def change(ledger: Ledger, **values: object) -> None:
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(**values))


async def test_a_batch_whose_rows_only_wait_for_their_provider_takes_no_place(
    ledger: Ledger, relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    """So the dispatcher releases another one, and a sender that resumes it begins as with any batch."""
    relay.behaviour.dot = lambda _rcpt, _tries: After.SILENCE
    seeded = await seed_campaign(ledger, 40)
    sender = launch_sender(provider_limits="example.test=1")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (batch := (await batches_of(ledger, seeded.id))[0]).span_seconds is None:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)
    assert (batch.state, batch.span_seconds) == ("sending", 0.0)
    async with ledger.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(Batch).where(takes_place())) == 0
    sender.kill()
    [resumed], requeued = await claims.resume(ledger, batch.owner, 15.0, limit=2)
    assert (resumed.batch_id, resumed.is_limited, requeued) == (batch.id, False, [])
    assert (await batches_of(ledger, seeded.id))[0].span_seconds is None
