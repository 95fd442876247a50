"""Each kind of outage that PostgreSQL tells by an error code, on every service: no process ends, nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cli.local.postgres import PrivatePostgres
from tests.support.broker import BrokerVhost
from tests.support.relay import RecordingRelay
from tests.support.system import System, installation
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

RECIPIENTS = 1500
SLOWLY, QUICKLY = 0.1, 0.0  # seconds per email and connection; slowly they take 20 s
STATES = ("55P03", "57P01", "57P03", "58030", "28P01", "25006", "53100", "25P03", "40001", "XX001")
TABLES = ("recipient", "batch", "campaign", "timeline", "service_instance", "suppression", "import")
SENDERS = ("sender-1", "sender-2")


def outage(state: str) -> str:
    """Statements that make every write fail with an error code, on connections old and new."""
    return (
        "CREATE FUNCTION outage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION 'an outage' USING ERRCODE = '{state}'; END $$;"
        + "".join(
            f'CREATE TRIGGER outage BEFORE INSERT OR UPDATE OR DELETE ON "{table}" EXECUTE FUNCTION outage();'
            for table in TABLES
        )
    )


OVER = "DROP FUNCTION outage CASCADE"


@pytest.fixture
async def system(
    tmp_path: Path, postgresql_url: str, broker_vhost: BrokerVhost, relay: RecordingRelay
) -> AsyncIterator[System]:
    vhost = broker_vhost
    async with installation(
        tmp_path, postgresql_url, vhost.admin_url, vhost.services_url, relay, smtp_connections="4"
    ) as system:
        await system.start()
        yield system


async def test_every_service_outlives_every_outage(
    system: System, postgres: PrivatePostgres, relay: RecordingRelay
) -> None:
    """One campaign for each code; its emails wait while the outage lasts, and none is sent twice."""
    database = system.database_url.rpartition("/")[2]
    pids = {name: process.pid for name, process in system.processes.items()}
    for state in STATES:
        relay.behaviour.seconds_per_email = SLOWLY
        campaign = await system.create([f"{state.lower()}-{number}@example.test" for number in range(RECIPIENTS)])
        await system.send(campaign)
        before = len(relay.received)
        await until(lambda before=before: len(relay.received) > before + 20)  # type: ignore[misc]
        await asyncio.to_thread(postgres.query, outage(state), database)
        try:
            async with system.client() as client:
                answer = await client.post("/campaigns", json=NEW)
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, (state, answer.text)
            assert "Retry-After" in answer.headers
            for services in (("api",), ("dispatcher",), ("watchdog",), SENDERS):
                await until_one_says(system, services, state)
        finally:
            await asyncio.to_thread(postgres.query, OVER, database)
            relay.behaviour.seconds_per_email = QUICKLY
        assert (await system.wait_closed(campaign, 90))["counts"]["sent"] == RECIPIENTS, state
        assert {name: process.pid for name, process in system.processes.items() if process.is_running} == pids, state
    assert relay.duplicates == 0
    assert len(relay.copies) == RECIPIENTS * len(STATES)


async def until_one_says(system: System, services: tuple[str, ...], state: str) -> None:
    """Until one of these processes says that the database takes no writes."""
    async with asyncio.timeout(60):
        while True:
            said = [await system.processes[name].metric("vashsender_database_writable") for name in services]
            if 0.0 in said:
                return
            assert all(system.processes[name].is_running for name in services), (state, services)
            await asyncio.sleep(0.1)


NEW = {"name": "n", "from": {"email": "news@example.test"}, "subject": "s", "text": "t"}
