"""A few minutes of a busy installation with faults, watched by a real Prometheus: what the pictures of the dashboards
show. Three senders, four campaigns, refusals, a relay that rests, a killed sender, cut connections to the broker,
reports that come in, and a webhook that fails for a while."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.local.ports import free_port
from cli.output import step
from scripts.dashboards.outside import Program, name_bounce_domain, report
from tests.support.broker import BrokerVhost, new_vhost
from tests.support.databases import migrated_sqlite
from tests.support.prometheus import Prometheus, prometheus
from tests.support.relay import RecordingRelay
from tests.support.run import TestRun
from tests.support.system import System, installation

SECONDS = 240
SECONDS_PER_EMAIL = 0.06
RETRY_SECONDS = 20
GONE = b"550 5.1.1 no such user\r\n"
LATER = b"451 4.2.0 mailbox busy, try again later\r\n"

DOMAINS = ("example.com", "example.org", "example.net")
SECRET = "a secret of a scene and of no installation"
CAMPAIGNS: tuple[tuple[str, int, Mapping[str, Any]], ...] = (
    ("Spring news", 80_000, {}),
    ("Invitation: open day", 9_000, {"emails_per_second": 30}),
    ("Price list for partners", 1_500, {}),
    ("Old list from the fair", 6_000, {}),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """The installation while it runs."""

    system: System
    vhost: BrokerVhost
    relay: RecordingRelay
    program: Program
    targets: Path

    def watch(self) -> None:
        """Tells Prometheus which processes there are."""
        entries = [
            {"targets": [process.http_url.removeprefix("http://")], "labels": {"instance": name}}
            for name, process in self.system.processes.items()
        ]
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps(entries))
        new.replace(self.targets)


def refuse(rcpt: str, tries: int) -> bytes | None:
    """A thirtieth does not exist, a twelfth is busy at first; of the old list nearly half is gone."""
    local = rcpt.partition("@")[0]
    number = int(local.rpartition("-")[2])
    if local.startswith("old") and number % 9 < 4:
        return GONE
    if number % 30 == 7:
        return GONE
    return LATER if number % 12 == 5 and tries == 0 else None


async def play(scene: Scene) -> None:
    """Sends the campaigns and breaks what there is to break."""
    system, relay = scene.system, scene.relay
    ids = []
    for name, size, fields in CAMPAIGNS:
        word = name.split()[0].strip(":").lower()
        addresses = [f"{word}-{number}@{DOMAINS[number % len(DOMAINS)]}" for number in range(size)]
        ids.append(await system.create(addresses, name=name, retry_delay_seconds=RETRY_SECONDS, **fields))
    for campaign in ids[:2]:
        await system.send(campaign)
    await pass_time(0.12, "two campaigns")
    for number in (2, 3):
        system.launch("sender", f"sender-{number}")
    scene.watch()
    await pass_time(0.1, "three senders")
    await system.send(ids[2])
    await system.send(ids[3])
    await pass_time(0.1, "four campaigns")
    await asyncio.to_thread(scene.vhost.close_connections)
    scene.program.fails = True
    await pass_time(0.13, "webhook fails")
    scene.program.fails = False
    system.processes["sender-2"].kill()
    await pass_time(0.12, "sender killed")
    system.processes["sender-2"].launch()
    await pass_time(0.13, "sender is back")
    relay.stop()
    await pass_time(0.08, "relay away")
    relay.start()
    await pass_time(0.22, "relay is back")


async def pass_time(share: float, what: str) -> None:
    """Lets a share of the scene go by, and says so."""
    with step(what):
        await asyncio.sleep(SECONDS * share)


async def start(system: System, program: Program, url: str) -> int:
    """Everything but the senders that come later. Returns the port for reports."""
    port = free_port()
    system.service_settings["webhooks"] = {"webhook_networks": "127.0.0.1/32", "publish_events": "true"}
    await name_bounce_domain(url)
    await system.start(senders=1)
    system.launch("feedback", lmtp_port=str(port), smtp_port=str(free_port()))
    system.launch("webhooks")
    await asyncio.gather(*(system.processes[name].wait_ready() for name in ("feedback", "webhooks")))
    await system.post("/webhooks", {"url": program.url})
    return port


@asynccontextmanager
async def played(folder: Path) -> AsyncIterator[Prometheus]:
    """Prometheus after the scene, while everything still runs."""
    run, relay, program = TestRun.new(), RecordingRelay(), Program()
    relay.behaviour.rcpt = refuse
    relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    relay.start()
    try:
        with ExitStack() as servers:
            url = await asyncio.to_thread(servers.enter_context, migrated_sqlite(run, folder))
            broker = await asyncio.to_thread(run.broker)
            vhost = await asyncio.to_thread(servers.enter_context, new_vhost(broker))
            settings = {
                "smtp_connections": "8",
                "relay_rest_seconds": "8",
                "batch_size": "200",
                "secret_key": SECRET,
            }
            async with (
                program.running(),
                installation(folder, url, vhost.admin_url, vhost.services_url, relay, **settings) as system,
            ):
                port = await start(system, program, url)
                targets = {
                    "vashsender": {n: p.http_url.removeprefix("http://") for n, p in system.processes.items()},
                    "rabbitmq": {"rabbit@broker": f"127.0.0.1:{broker.prometheus_port}"},
                }
                with prometheus(folder / "prometheus", targets, vhost.name) as server:
                    async with asyncio.TaskGroup() as tasks:
                        reports = tasks.create_task(report(relay, port))
                        await play(Scene(system, vhost, relay, program, folder / "prometheus" / "vashsender.json"))
                        yield server
                        reports.cancel()
    finally:
        relay.stop()
        run.end()
