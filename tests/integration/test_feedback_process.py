"""The feedback service as a process: what it accepts, how it stops, and what it says while its database is away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlmodel import col

from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, ServiceInstance
from shared.ledger.report_tables import Report
from tests.support.broker import BrokerVhost
from tests.support.lmtp import BOUNCES, Wire, a_bounce, greeted, sent_campaign
from tests.support.processes import ServiceProcess
from tests.support.proxy import Proxy, with_port

pytestmark = pytest.mark.timeout(180)

SECRET = "0123456789abcdef0123456789abcdef"
RECORDED = 'vashsender_feedback_reports_total{kind="bounced",result="recorded"}'
REPEATED = 'vashsender_feedback_reports_total{kind="bounced",result="repeated"}'
FORGED = 'vashsender_feedback_refused_total{reason="wrong_token"}'
AWAY = 'vashsender_feedback_refused_total{reason="database"}'


async def prepared(database_url: str, recipients: int) -> list[str]:
    ledger = Ledger(database_url, pool_size=1)
    tokens = await sent_campaign(ledger, recipients, SECRET.encode())
    await ledger.close()
    return tokens


async def counted(database_url: str) -> tuple[int, int]:
    """Reports in the ledger, and bounced recipients as the batches count them."""
    ledger = Ledger(database_url, pool_size=1)
    async with ledger.read() as connection:
        reports = await connection.scalar(select(func.count()).select_from(Report))
        bounced = await connection.scalar(select(func.sum(col(Batch.bounced))))
    await ledger.close()
    return reports or 0, bounced or 0


async def stopped(database_url: str) -> list[bool]:
    """Whether each process that the ledger knows says that it has stopped, the first one first."""
    ledger = Ledger(database_url, pool_size=1)
    async with ledger.read() as connection:
        found = await connection.execute(
            select(col(ServiceInstance.draining)).order_by(col(ServiceInstance.started_at))
        )
    await ledger.close()
    return list(found.scalars())


@asynccontextmanager
async def feedback(folder: Path, database_url: str, vhost: BrokerVhost) -> AsyncIterator[tuple[ServiceProcess, int]]:
    """A ready process, and its port for LMTP."""
    port = free_port()
    settings = {
        "DATABASE_URL": database_url,
        "AMQP_URL": vhost.services_url,
        "UNSUBSCRIBE_KEY": SECRET,
        "LMTP_PORT": str(port),
        "VAR_DIR": str(folder),
    }
    names = {f"VASHSENDER_{name}": value for name, value in settings.items()}
    process = ServiceProcess("feedback", names, free_port(), folder)
    process.launch()
    try:
        await process.wait_ready()
        yield process, port
    finally:
        process.kill()


async def bounce(wire: Wire, token: str) -> str:
    return await wire.mail(f"bounce+{token}@{BOUNCES}", a_bounce(token))


async def test_it_accepts_counts_and_stops(tmp_path: Path, database_url: str, broker_vhost: BrokerVhost) -> None:
    first, second = await prepared(database_url, 2)
    async with feedback(tmp_path, database_url, broker_vhost) as (process, port):
        wire, idle = await greeted(port), await greeted(port)
        assert await bounce(wire, first) == "250 2.0.0 recorded"
        assert await bounce(wire, first) == "250 2.0.0 repeated"
        assert (await bounce(wire, "a" * 32)).startswith("550 5.1.1")
        assert await bounce(idle, second) == "250 2.0.0 recorded"
        assert [await process.metric(sample) for sample in (RECORDED, REPEATED, FORGED)] == [2, 1, 1]
        assert await process.metric("vashsender_feedback_connections") == 2
        await process.stop_cleanly()  # with both connections open
        assert await counted(database_url) == (2, 2)
        assert await stopped(database_url) == [True]
        assert first not in process.log_text()
        process.launch()
        again = await greeted(port)
        assert await bounce(again, first) == "250 2.0.0 repeated"
        assert await stopped(database_url) == [True, False]
        for connection in (wire, idle, again):
            await connection.close()
    assert await counted(database_url) == (2, 2)


async def test_while_the_database_is_away_the_mail_server_keeps_the_report(
    tmp_path: Path, postgresql_url: str, postgres: PrivatePostgres, broker_vhost: BrokerVhost
) -> None:
    first, second = await prepared(postgresql_url, 2)
    proxy = Proxy(postgres.port)
    proxy.start()
    try:
        async with feedback(tmp_path, with_port(postgresql_url, proxy.port), broker_vhost) as (process, port):
            wire = await greeted(port)
            assert await bounce(wire, first) == "250 2.0.0 recorded"
            proxy.stop()
            assert (await bounce(wire, second)).startswith("451 4.3.0")
            assert (await bounce(wire, first)).startswith("451 4.3.0")
            assert await process.metric(AWAY) == 2
            await process.wait_health("/health/ready", 503)
            proxy = Proxy(postgres.port, port=proxy.port)
            proxy.start()
            await process.wait_ready()
            assert await bounce(wire, second) == "250 2.0.0 recorded"
            assert await bounce(wire, first) == "250 2.0.0 repeated"
            await wire.close()
    finally:
        proxy.stop()
    assert await counted(postgresql_url) == (2, 2)
