"""Runs the integration tests that use the broker on RabbitMQ 4, from the file tree of a newer Debian."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.local import packages
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN
from cli.local.ports import free_ports
from shared import topology
from tests.support.broker import new_vhost
from tests.support.debian_tree import debian
from tests.support.rabbitmq_release import ROOT_VARIABLE, ChrootedBroker
from tests.support.relay import RecordingRelay
from tests.support.system import installation

pytestmark = pytest.mark.timeout(2400)

PROJECT = Path(__file__).parents[2]
USES_THE_BROKER = re.compile(r"\b(broker_vhost|own_broker|tls_broker|broker: PrivateBroker|system: System)\b")
WORKERS = "2"
BUSY_SECONDS = 180.0


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("making a Debian tree needs root: sudo make test-deploy")
    packages.ensure(["debootstrap"])
    with debian("trixie", "rabbitmq-server") as tree:
        yield tree


def test_the_integration_tests_pass_on_rabbitmq_4(tree: Path) -> None:
    files = [path for path in sorted((PROJECT / "tests" / "integration").glob("test_*.py")) if _uses_the_broker(path)]
    assert len(files) >= 10
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", WORKERS, *map(str, files)],
        env={**os.environ, ROOT_VARIABLE: str(tree)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]


async def test_a_running_campaign_moves_from_3_10_to_4(
    tree: Path, broker: PrivateBroker, postgresql_url: str, tmp_path: Path
) -> None:
    """Follows docs/rabbitmq.md: a new broker beside the old one; the services change to it one after the other."""
    ports = free_ports(5)
    newer = ChrootedBroker(tree, tmp_path / "newer", *ports)
    relay = RecordingRelay()
    relay.behaviour.seconds_per_email = 0.02
    relay.start()
    newer.start()
    try:
        newer.wait_ready(BUSY_SECONDS)
        assert [_series(one) for one in (broker, newer)] == ["3", "4"]
        await topology.declare(newer.amqp_url(ADMIN))
        with new_vhost(broker) as old:
            async with installation(tmp_path, postgresql_url, old.admin_url, old.services_url, relay) as system:
                system.settings["smtp_connections"] = "2"
                await system.start()
                campaign = await system.create(6000)
                await system.send(campaign)
                await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] > 50)
                system.settings["amqp_url"] = newer.amqp_url()
                for name in ("sender-1", "dispatcher", "api", "sender-2", "watchdog"):
                    await system.processes[name].stop()
                    await system.launch(name.partition("-")[0], name).wait_ready()
                half_way = await system.show(campaign)
                assert half_way["counts"]["sent"] < 6000, "it was over before the services had moved"
                relay.behaviour.seconds_per_email = 0.0
                await system.wait_closed(campaign, 300)
                account = await system.reconcile(campaign)
                assert (account.counts["sent"], account.lost, account.duplicated) == (6000, 0, 0)
    finally:
        newer.stop()
        relay.stop()


def _series(broker: PrivateBroker) -> str:
    auth = (ADMIN, broker.password(ADMIN))
    overview = httpx.get(f"{broker.management_url}/api/overview", auth=auth, trust_env=False).raise_for_status().json()
    return str(overview["rabbitmq_version"]).partition(".")[0]


def _uses_the_broker(path: Path) -> bool:
    return USES_THE_BROKER.search(path.read_text()) is not None
