"""A primary with a synchronous standby: the primary dies, the standby is promoted, and nothing is lost or doubled."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.health import database_check
from shared.ledger import migrate
from shared.ledger.database import Ledger
from tests.support.broker import BrokerVhost
from tests.support.relay import RecordingRelay
from tests.support.run import TestRun
from tests.support.smtp.certificates import Authority
from tests.support.standby import Pair, new_pair
from tests.support.system import System, installation
from tests.support.tls import enable_tls
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

BACK_SECONDS = 15.0
"""Three times what is promised, because other tests run beside this one."""
RECIPIENTS = 1500


@pytest.fixture
def pair(run: TestRun, tmp_path: Path) -> Iterator[Pair]:
    with new_pair(run, f"pair-{tmp_path.name}") as pair:
        pair.primary.create_database("ledger")
        migrate.upgrade(pair.url("ledger"))
        yield pair


@pytest.fixture
async def system(tmp_path: Path, pair: Pair, broker_vhost: BrokerVhost, relay: RecordingRelay) -> AsyncIterator[System]:
    relay.behaviour.seconds_per_email = 0.04
    vhost = broker_vhost
    async with installation(tmp_path, pair.url("ledger"), vhost.admin_url, vhost.services_url, relay) as system:
        yield system


async def test_a_promotion_within_the_lease_loses_and_doubles_nothing(
    system: System, pair: Pair, relay: RecordingRelay
) -> None:
    await system.start(senders=2)
    pids = {name: process.pid for name, process in system.processes.items()}
    campaign = await system.create(RECIPIENTS)
    await system.send(campaign)
    await until(lambda: len(relay.received) > 200)
    await asyncio.to_thread(pair.primary.kill)
    await asyncio.sleep(2)  # what watches the primary needs some time
    await asyncio.to_thread(pair.promote)
    promoted_at, received = time.monotonic(), len(relay.received)
    await until(lambda: len(relay.received) > received, BACK_SECONDS)
    await asyncio.gather(*(process.wait_ready(BACK_SECONDS + 10) for process in system.processes.values()))
    assert time.monotonic() - promoted_at < BACK_SECONDS + 10
    another = await system.create([f"late-{number}@example.test" for number in range(10)])
    await system.send(another)
    for one in (campaign, another):
        assert (await system.wait_closed(one))["status"] == "finished"
    found = await system.reconcile(campaign)
    assert (found.lost, found.duplicated, found.counts["sent"]) == (0, 0, RECIPIENTS)
    assert {name: process.pid for name, process in system.processes.items()} == pids
    assert all(process.is_running for process in system.processes.values())


async def test_a_late_promotion_doubles_no_more_than_a_killed_sender(
    system: System, pair: Pair, relay: RecordingRelay
) -> None:
    """The leases are over, so the batches may change hands with results that only their old owner knows."""
    system.settings |= {"lease_seconds": "3", "renew_seconds": "0.6", "smtp_connections": "4"}
    await system.start(senders=2)
    campaign = await system.create(RECIPIENTS)
    await system.send(campaign)
    await until(lambda: len(relay.received) > 200)
    await asyncio.to_thread(pair.primary.kill)
    await asyncio.sleep(5)
    await asyncio.to_thread(pair.promote)
    assert (await system.wait_closed(campaign))["status"] == "finished"
    found = await system.reconcile(campaign)
    assert (found.lost, found.counts["sent"]) == (0, RECIPIENTS)
    assert found.duplicated <= 2 * (4 + 64)


async def test_a_standby_is_never_taken_for_the_primary(pair: Pair) -> None:
    """Whatever the order of the hosts, and also while there is no primary."""
    for url in (pair.url("ledger"), Pair(pair.standby, pair.primary).url("ledger")):
        ledger = Ledger(url, pool_size=2)
        async with ledger.write() as connection:
            assert (await connection.exec_driver_sql("SELECT pg_is_in_recovery()")).scalar_one() is False
        await ledger.close()
    reading = Ledger(pair.standby.url("ledger"), pool_size=2)  # a URL that leads to a standby
    assert await database_check(reading)() == "it is a standby, which takes no writes"
    await asyncio.to_thread(pair.primary.stop)
    ledger = Ledger(pair.url("ledger"), pool_size=2)
    with pytest.raises(OSError, match=f"127.0.0.1:{pair.standby.port}: takes no writes"):
        await ledger.now()
    await asyncio.to_thread(pair.promote)
    assert await ledger.now() > 0
    assert await database_check(reading)() == ""
    for one in (ledger, reading):
        await one.close()


async def test_tls_is_verified_for_each_host_by_its_own_name(pair: Pair, tmp_path: Path) -> None:
    """The URL names the primary as `localhost`, and the standby by an address that its certificate does not have."""
    authority = Authority(tmp_path)
    for cluster in (pair.primary, pair.standby):
        await asyncio.to_thread(enable_tls, cluster, authority.certificate("localhost"))
    tls = {"sslmode": "verify-full", "sslrootcert": str(authority.ca_file)}
    right = pair.url("ledger", **tls).replace("host=127.0.0.1", "host=localhost")
    wrong = right.replace(f"localhost:{pair.standby.port}", f"127.0.0.1:{pair.standby.port}")
    for url in (right, wrong):
        ledger = Ledger(url)
        assert await ledger.now() > 0
        await ledger.close()
    await asyncio.to_thread(pair.primary.kill)
    await asyncio.to_thread(pair.promote)
    ledger = Ledger(wrong)
    with pytest.raises(OSError, match=r"certificate is not valid for '127\.0\.0\.1'"):
        await ledger.now()
    await ledger.close()
    ledger = Ledger(right)
    assert await ledger.now() > 0
    await ledger.close()
