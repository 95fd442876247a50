"""The ledger on a disk that is really full: a separate file system, filled completely. Needs root to mount it."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.support.broker import BrokerVhost
from tests.support.databases import sqlite_url
from tests.support.processes import ServiceProcess
from tests.support.relay import RecordingRelay
from tests.support.system import installation
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

RECIPIENTS = 3000
CONNECTIONS, UNRECORDED = 8, 64
MEGABYTES = {"sqlite": 16, "postgresql": 220}
PATIENCE_SECONDS = 120.0
WRITABLE = "vashsender_database_writable"


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system."""
    if os.geteuid() != 0:
        pytest.fail("mounting a file system needs root: sudo make test-deploy")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = MEGABYTES[request.getfixturevalue("kind")]
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def ledger_server(kind: str, disk: Path) -> Iterator[PrivatePostgres | None]:
    if kind == "sqlite":
        yield None
        return
    for folder in (disk, *disk.parents[:3]):
        folder.chmod(0o755)  # PostgreSQL runs as another user than root and must reach its cluster in here
    postgres = PrivatePostgres(disk / "postgres", free_port(), durable=False)
    postgres.start()
    postgres.wait_ready()
    try:
        yield postgres
    finally:
        postgres.stop()


@pytest.mark.parametrize("kind", MEGABYTES)
async def test_services_wait_report_it_and_continue_when_space_is_free(
    kind: str,
    disk: Path,
    ledger_server: PrivatePostgres | None,
    broker_vhost: BrokerVhost,
    relay: RecordingRelay,
    tmp_path: Path,
) -> None:
    url = ledger_server.create_database("ledger") if ledger_server else sqlite_url(disk / "ledger.db")
    await asyncio.to_thread(migrate.upgrade, url)
    relay.behaviour.seconds_per_email = 0.04
    async with installation(tmp_path, url, broker_vhost.admin_url, broker_vhost.services_url, relay) as system:
        await system.start(senders=1)
        sender = system.processes["sender-1"]
        campaign = await system.create(RECIPIENTS)
        await system.send(campaign)
        await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] >= 50, PATIENCE_SECONDS)
        fill(disk)

        await until(lambda: says(sender, "it accepts no writes"), PATIENCE_SECONDS)
        assert await sender.metric(WRITABLE) == 0
        taken = len(relay.received)
        recorded = (await system.show(campaign))["counts"]["sent"]
        assert taken - recorded <= UNRECORDED + CONNECTIONS, "no email starts whose result could not be recorded"
        assert recorded < RECIPIENTS

        (disk / "ballast").unlink()
        if ledger_server is not None and not ledger_server.is_running:
            await asyncio.to_thread(ledger_server.start)  # PostgreSQL may stop; restarting it is the supervisor's task
        for process in system.processes.values():
            await process.wait_ready(PATIENCE_SECONDS)
        relay.behaviour.seconds_per_email = 0.0
        assert (await system.wait_closed(campaign, PATIENCE_SECONDS))["counts"]["sent"] == RECIPIENTS
        account = await system.reconcile(campaign)
        assert (account.lost, account.duplicated, account.unrecorded) == (0, 0, 0)
        assert await sender.metric(WRITABLE) == 1


def fill(disk: Path) -> None:
    """Fills the file system completely."""
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass


async def says(process: ServiceProcess, words: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        answer = await client.get(f"{process.http_url}/health/ready")
    return answer.status_code == 503 and words in answer.json()["checks"]["database"]
