"""PostgreSQL takes no writes for a while, as at a failover: the sender keeps its results and goes on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cli.local.postgres import PrivatePostgres
from shared import topology
from shared.ledger import migrate
from shared.ledger.database import Ledger
from tests.conftest import ServiceFactory
from tests.integration.test_sender_process import batch_states, state_of
from tests.support.broker import BrokerVhost
from tests.support.relay import RecordingRelay
from tests.support.seeds import seed_campaign
from tests.support.waiting import until

READ_ONLY_SECONDS = 6.0


@pytest.fixture
async def ledger(own_postgres: PrivatePostgres) -> AsyncIterator[Ledger]:
    url = own_postgres.create_database("failover")
    await asyncio.to_thread(migrate.upgrade, url)
    ledger = Ledger(url, pool_size=2)
    yield ledger
    await ledger.close()


async def test_a_sender_outlives_a_read_only_database_and_sends_nothing_twice(
    own_postgres: PrivatePostgres,
    ledger: Ledger,
    broker_vhost: BrokerVhost,
    relay: RecordingRelay,
    service_process: ServiceFactory,
) -> None:
    await topology.declare(broker_vhost.admin_url)
    relay.behaviour.seconds_per_email = 0.02
    seeded = await seed_campaign(ledger, 600, batch_size=300)
    sender = service_process(
        "sender",
        {
            "VASHSENDER_DATABASE_URL": own_postgres.url("failover"),
            "VASHSENDER_AMQP_URL": broker_vhost.services_url,
            "VASHSENDER_RELAYS": relay.url,
            "VASHSENDER_SMTP_CONNECTIONS": "4",
            "VASHSENDER_TICKET_PATIENCE_SECONDS": "0.2",
            "VASHSENDER_CLOCK_SECONDS": "0.2",
        },
    )
    pid = sender.pid
    await until(lambda: len(relay.received) > 50)
    await read_only(own_postgres, "on")
    await asyncio.sleep(READ_ONLY_SECONDS)
    received = len(relay.received)
    assert received < 600, "no email starts while its result cannot be recorded"
    await read_only(own_postgres, "off")

    async def all_done() -> bool:
        return await batch_states(ledger) == ["done", "done"]

    await until(all_done)
    assert sender.pid == pid
    assert sender.is_running
    assert (await state_of(ledger, seeded.id))["sent"] == 600
    assert len(relay.copies) == 600
    assert relay.duplicates == 0


async def read_only(postgres: PrivatePostgres, value: str) -> None:
    """Every connection, old or new, from now on."""
    for statement in (f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()"):
        await asyncio.to_thread(postgres.query, statement)
