"""Every service stops on SIGTERM with exit code 0, also if the database or the broker is away or silent meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.local.ports import free_port
from shared import topology
from tests.support.broker import BrokerVhost
from tests.support.processes import ServiceProcess
from tests.support.proxy import Proxy, with_port
from tests.support.relay import RecordingRelay

pytestmark = pytest.mark.more


@pytest.fixture
def links(postgresql_url: str, broker_vhost: BrokerVhost) -> Iterator[dict[str, Proxy]]:
    """The ways to the database and to the broker. A test that stops one removes it."""
    urls = {"database": postgresql_url, "broker": broker_vhost.services_url}
    made = {name: Proxy(urlsplit(url).port or 0) for name, url in urls.items()}
    for proxy in made.values():
        proxy.start()
    yield made
    for proxy in made.values():
        proxy.stop()


@pytest.mark.parametrize("trouble", ["database gone", "database silent", "broker gone", "broker silent"])
async def test_every_service_stops_cleanly(
    trouble: str,
    links: dict[str, Proxy],
    tmp_path: Path,
    postgresql_url: str,
    broker_vhost: BrokerVhost,
    relay: RecordingRelay,
) -> None:
    await topology.declare(broker_vhost.admin_url)
    common = {
        "DATABASE_URL": with_port(postgresql_url, links["database"].port),
        "AMQP_URL": with_port(broker_vhost.services_url, links["broker"].port),
        "VAR_DIR": str(tmp_path),
    }
    own = {
        "api": {},
        "dispatcher": {},
        "sender": {"RELAYS": relay.url, "SLOT": "sender-1"},
        "watchdog": {},
        "feedback": {"UNSUBSCRIBE_KEY": "0123456789abcdef0123456789abcdef", "LMTP_PORT": str(free_port())},
        "webhooks": {"PUBLISH_EVENTS": "true"},
    }
    with ExitStack() as stack:
        processes = []
        for service, settings in own.items():
            named = {f"VASHSENDER_{name}": value for name, value in (common | settings).items()}
            processes.append(process := ServiceProcess(service, named, free_port(), tmp_path))
            stack.callback(process.kill)
            process.launch()
        await asyncio.gather(*(process.wait_ready() for process in processes))
        what, how = trouble.split()
        if how == "gone":
            links.pop(what).stop()
        else:
            links[what].cut()
        await asyncio.gather(*(process.stop_cleanly() for process in processes))
