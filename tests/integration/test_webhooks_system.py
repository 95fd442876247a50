"""The whole way out: a campaign, its events, and the receiver of docs/examples; services are killed meanwhile."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local.ports import free_port
from tests.support.system import System

EXAMPLE = Path(__file__).parents[2] / "docs/examples/webhook_receiver.py"
RECIPIENTS = 300
POLL_SECONDS = 0.05


class Receiver:
    """The example, as a process."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._database = folder / "events.db"
        self._log = folder / "receiver.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, secret: str) -> None:
        own = {"WEBHOOK_SECRET": secret, "EVENTS_DB": str(self._database), "PORT": str(self.port)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(EXAMPLE)], env={**os.environ, **own}, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def events(self) -> list[tuple[str, str, dict[str, object]]]:
        """Ids, types and data, in the order in which they arrived."""
        if not self._database.exists():
            return []
        with sqlite3.connect(self._database) as store:
            try:
                rows = store.execute("SELECT id, type, data FROM event ORDER BY rowid").fetchall()
            except sqlite3.OperationalError:  # it is just being made
                return []
        return [(row[0], row[1], json.loads(row[2])) for row in rows]

    async def wait_for(self, number: int) -> None:
        while len(self.events()) < number:  # noqa: ASYNC110 - another process writes them
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    yield receiver
    receiver.kill()


async def test_every_event_arrives_in_order_though_both_sides_are_killed(system: System, receiver: Receiver) -> None:
    system.service_settings["webhooks"] = {"webhook_networks": "127.0.0.1/32", "webhook_post_seconds": "5"}
    await system.start(senders=1)
    await system.launch("webhooks").wait_ready()
    made = await system.post("/webhooks", {"url": receiver.url})
    receiver.start(made["secret"])
    campaign = await system.create(RECIPIENTS)
    await system.send(campaign)
    async with asyncio.timeout(100):
        await receiver.wait_for(50)
        system.processes["webhooks"].kill()
        receiver.kill()
        closed = await system.wait_closed(campaign, 90)
        receiver.start(made["secret"])
        await system.launch("webhooks").wait_ready()
        await receiver.wait_for(RECIPIENTS + 3)
    assert closed["counts"]["sent"] == RECIPIENTS
    events = receiver.events()
    positions = [int(identity.rpartition("-")[2]) for identity, _, _ in events]
    assert positions == list(range(1, len(events) + 1)), "all of them, in order"
    sent = [data["recipient_id"] for _, kind, data in events if kind == "recipient.sent"]
    assert len(sent) == len(set(sent)) == RECIPIENTS
    kinds = [kind for _, kind, _ in events if kind.startswith("campaign")]
    assert kinds == ["campaign.queued", "campaign.started", "campaign.finished"]
    [end] = [data for _, kind, data in events if kind == "campaign.finished"]
    assert end["counts"]["sent"] == RECIPIENTS  # type: ignore[index]


async def test_a_private_address_gets_nothing_unless_a_setting_allows_it(system: System, receiver: Receiver) -> None:
    await system.start(senders=0)
    await system.launch("webhooks").wait_ready()
    made = await system.post("/webhooks", {"url": receiver.url})
    receiver.start(made["secret"])
    await system.post(f"/webhooks/{made['id']}/test")
    async with asyncio.timeout(60), system.client() as client:
        while True:
            shown = (await client.get(f"/webhooks/{made['id']}")).raise_for_status().json()
            if shown["failing_since"] is not None:
                break
            await asyncio.sleep(POLL_SECONDS)
    assert "VASHSENDER_WEBHOOK_NETWORKS" in shown["last_error"]
    assert receiver.events() == []
