"""Groups of relays: a campaign's emails leave through the relays of its group, whatever happens to them."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from shared import topology
from shared.ledger.database import Ledger
from tests.conftest import ServiceFactory
from tests.support.broker import BrokerVhost
from tests.support.ledger import campaign_row, counts_by_status
from tests.support.processes import ServiceProcess
from tests.support.relay import RecordingRelay
from tests.support.seeds import Seeded, seed_campaign

pytestmark = pytest.mark.timeout(300)

EMAILS = 20
PATIENCE_SECONDS = 100.0
LaunchSender = Callable[[], ServiceProcess]


@pytest.fixture
def bulk_relay() -> Iterator[RecordingRelay]:
    relay = RecordingRelay()
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
async def launch_sender(
    service_process: ServiceFactory,
    database_url: str,
    broker_vhost: BrokerVhost,
    relay: RecordingRelay,
    bulk_relay: RecordingRelay,
) -> LaunchSender:
    """A sender with one place and two relays, the second in the group bulk."""
    await topology.declare(broker_vhost.admin_url)

    def launch() -> ServiceProcess:
        return service_process(
            "sender",
            {
                "VASHSENDER_DATABASE_URL": database_url,
                "VASHSENDER_AMQP_URL": broker_vhost.services_url,
                "VASHSENDER_RELAYS": f"{relay.url} {bulk_relay.url}&name=bulk&group=bulk",
                "VASHSENDER_RELAY_GROUPS": "bulk=bulk.example.test",
                "VASHSENDER_TICKET_PATIENCE_SECONDS": "0",
                "VASHSENDER_CLOCK_SECONDS": "0.1",
                "VASHSENDER_BATCHES_IN_HAND": "1",
                "VASHSENDER_RELAY_REST_SECONDS": "0.5",
                "VASHSENDER_RELAY_REST_MAX_SECONDS": "0.5",
            },
        )

    return launch


async def all_sent(ledger: Ledger, *campaigns: Seeded) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        for campaign in campaigns:
            while (await counts_by_status(ledger, campaign.id)).get("sent", 0) < EMAILS:  # noqa: ASYNC110 - a process sends
                await asyncio.sleep(0.05)


async def test_a_campaign_uses_the_group_it_names_or_that_of_its_domain(
    ledger: Ledger, relay: RecordingRelay, bulk_relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    campaigns = [
        await seed_campaign(ledger, EMAILS, relay_group="bulk"),
        await seed_campaign(ledger, EMAILS, from_email="news@bulk.example.test"),
        await seed_campaign(ledger, EMAILS),
    ]
    launch_sender()
    await all_sent(ledger, *campaigns)
    assert (len(bulk_relay.received), len(relay.received)) == (2 * EMAILS, EMAILS)


async def test_a_group_whose_relays_are_down_waits_and_keeps_nobody_waiting(
    ledger: Ledger, relay: RecordingRelay, bulk_relay: RecordingRelay, launch_sender: LaunchSender
) -> None:
    bulk_relay.stop()
    waiting = await seed_campaign(ledger, EMAILS, relay_group="bulk")
    other = await seed_campaign(ledger, EMAILS)
    launch_sender()
    await all_sent(ledger, other)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "relay bulk" not in ((await campaign_row(ledger, waiting.id)).blocked_by or ""):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert len(relay.received) == EMAILS
    bulk_relay.start()
    await all_sent(ledger, waiting)
    assert (len(bulk_relay.received), len(relay.received)) == (EMAILS, EMAILS)


async def test_a_campaign_whose_group_is_unknown_to_the_sender_is_paused(
    ledger: Ledger, launch_sender: LaunchSender
) -> None:
    lost = await seed_campaign(ledger, EMAILS, relay_group="vip")
    launch_sender()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (row := await campaign_row(ledger, lost.id)).status != "paused":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert "'vip' is not in VASHSENDER_RELAY_GROUPS" in row.reason
