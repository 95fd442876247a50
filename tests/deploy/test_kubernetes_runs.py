"""Runs the commands of Jobs, init containers, services and probes in deploy/kubernetes as processes, with the rendered
command, environment and Secret, on a real broker and a real PostgreSQL."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import httpx
import pytest

from cli.access_rights import MONITOR
from cli.local.broker import PrivateBroker
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared import topology
from shared.events import BatchReleased
from shared.reception import ADMIN
from tests.support import kubernetes
from tests.support.access import Accounts, accounts
from tests.support.kubernetes import Rendered
from tests.support.processes import ServiceProcess
from tests.support.relay import RecordingRelay
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

SERVICES = tuple(f"vashsender-{name}" for name in ("api", "dispatcher", "feedback", "sender", "watchdog", "webhooks"))
MOUNTED_AT = "/run/secrets/vashsender"
ROLES = {"operator": (ADMIN, "migrate"), "topology": (ADMIN, ""), "migrate": ("", "migrate")}
"""Pods that use another role's accounts on broker and database."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Rendered]:
    return kubernetes.overlays(tmp_path_factory.mktemp("rendered") / "kubernetes")


@pytest.fixture
def made(tmp_path: Path, broker: PrivateBroker, own_postgres: PrivatePostgres) -> Iterator[Accounts]:
    with accounts(tmp_path / "access", broker, own_postgres) as made:
        yield made


@dataclass(frozen=True)
class Runner:
    """Runs what a container would run. Only addresses, ports and paths are adapted to this machine."""

    overlay: Rendered
    made: Accounts
    relay: RecordingRelay
    folder: Path

    def environment(self, name: str, container: str = "containers") -> dict[str, str]:
        """The environment of the container, with the files of its Secret written to a folder."""
        secrets = self.folder / name / "secrets"
        secrets.mkdir(parents=True, exist_ok=True)
        for key, content in self.overlay.secret_files(name).items():
            (secrets / key).write_text(self._address(name, key) or content)
        given = self.overlay.environment(name, container)
        return {
            **{variable: value.replace(MOUNTED_AT, str(secrets)) for variable, value in given.items()},
            "VASHSENDER_VAR_DIR": str(self.folder / name / "var"),
            # Pods have separate networks; here each process has one port, which the test chooses.
            "VASHSENDER_HEALTH_PORT": "0",
        }

    async def once(
        self, name: str, words: Sequence[str], container: str = "containers"
    ) -> "subprocess.CompletedProcess[str]":
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("VASHSENDER_")}
        path = f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}"
        return await asyncio.to_thread(
            subprocess.run,
            words,
            env={**inherited, **self.environment(name, container), "PATH": path},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @asynccontextmanager
    async def services(self) -> AsyncIterator[dict[str, ServiceProcess]]:
        processes = {}
        try:
            for name in SERVICES:
                run, service = self.overlay.pods[name]["spec"]["containers"][0]["args"]
                assert run == "run"
                processes[name] = ServiceProcess(service, self.environment(name), free_port(), self.folder, name)
                processes[name].launch()
            yield processes
        finally:
            for process in processes.values():
                process.kill()

    def _address(self, name: str, key: str) -> str:
        role = name.removeprefix("vashsender-")
        broker, database = ROLES.get(role, (role, role))
        if key == "amqp_url":
            return self.made.amqp_url(broker)
        if key == "database_url":
            return self.made.database_url(database)
        return self.relay.url if key == "relays" else ""


@pytest.fixture
def runner(rendered: Mapping[str, Rendered], made: Accounts, relay: RecordingRelay, tmp_path: Path) -> Runner:
    return Runner(rendered["development"], made, relay, tmp_path)


async def test_an_installation_starts_in_the_order_of_a_cluster(runner: Runner) -> None:
    overlay = runner.overlay
    shell, option, script = overlay.pods["vashsender-sender"]["spec"]["initContainers"][0]["command"]
    # One pass: it would keep waiting, and says what for.
    once = [shell, option, script.replace("sleep 3", "exit 9")]
    waiting = await runner.once("vashsender-sender", once, "initContainers")
    [missing] = re.findall(r"missing: (.*)\. Run", waiting.stderr) or [""]
    assert (waiting.returncode, "campaigns" in missing.split(", ")) == (9, True), waiting.stderr

    for job in overlay.of("Job"):
        words = ["vashsender", *job["spec"]["template"]["spec"]["containers"][0]["args"]]
        done = await runner.once(job["metadata"]["name"], words)
        assert done.returncode == 0, done.stderr
    waited = await asyncio.gather(*(runner.once(name, [shell, option, script], "initContainers") for name in SERVICES))
    assert [done.returncode for done in waited] == [0] * len(SERVICES), [done.stderr for done in waited]
    key = await runner.once("vashsender-operator", ["vashsender", "key", "create", "first"])
    assert key.returncode == 0, key.stderr

    async with runner.services() as processes:
        for name, process in processes.items():
            container = overlay.pods[name]["spec"]["containers"][0]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                await process.wait_health(container[probe]["httpGet"]["path"], 200, 60)
        ended = await asyncio.gather(*(process.stop() for process in processes.values()))
        assert ended == [0] * len(SERVICES)


async def test_the_scaler_counts_unacknowledged_tickets(
    rendered: Mapping[str, Rendered], made: Accounts, broker: PrivateBroker
) -> None:
    """Queries like KEDA, with the account of its Secret and the queue of its trigger."""
    trigger = next(
        one for one in rendered["production"].of("ScaledObject")[0]["spec"]["triggers"] if one["type"] == "rabbitmq"
    )
    queue = trigger["metadata"]["queueName"]
    await topology.declare(made.admin_url)
    connection = await aio_pika.connect(made.admin_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.EXCHANGE)
        for _ in range(3):
            await exchange.publish(aio_pika.Message(b"a ticket"), BatchReleased.ROUTING_KEY)
        assert await (await channel.get_queue(queue)).get(no_ack=False) is not None
        account = urlsplit((made.folder / f"{MONITOR}_management_url").read_text())
        user = f"{made.prefix}_{MONITOR}"
        async with httpx.AsyncClient(
            base_url=broker.management_url, auth=(user, account.password or ""), trust_env=False
        ) as client:

            async def counted() -> bool:
                answer = (await client.get(f"/api/queues/{made.prefix}/{queue}")).raise_for_status().json()
                numbers = [answer.get(f"messages{which}") for which in ("_unacknowledged", "", "_ready")]
                return numbers == [1, 3, 2]

            await until(counted)
            refused = await client.get(f"/api/queues/{made.prefix}/{queue}/get")
            assert refused.status_code >= 400
