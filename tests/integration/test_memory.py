"""Memory under large content: every process stays small, everything is sent, and small mail does not wait long."""

import asyncio
import base64
import os
import re
from pathlib import Path

import httpx
import pytest

from tests.support.relay import RecordingRelay
from tests.support.system import System

pytestmark = [pytest.mark.more, pytest.mark.timeout(400)]

MEGABYTE = 1_000_000
MOST_MEGABYTES = 200
CAMPAIGNS = 10
RECIPIENTS = 8
ATTACHMENT_BYTES = 7 * MEGABYTE
SMALL_RECIPIENTS = 50


@pytest.fixture
def database_url(postgresql_url: str) -> str:
    return postgresql_url


async def test_ten_campaigns_with_a_large_attachment_need_little_memory(system: System, relay: RecordingRelay) -> None:
    await start_apart(system)
    attachment = base64.b64encode(os.urandom(ATTACHMENT_BYTES)).decode()
    files = [{"filename": "catalogue.pdf", "content_type": "application/pdf", "content": attachment}]

    async def create(number: int) -> str:
        people = [f"large-{number}-{n}@example.test" for n in range(RECIPIENTS)]
        while True:
            try:
                return await system.create(people, attachments=files)
            except (httpx.HTTPError, AssertionError) as error:
                if "503" not in str(error):
                    raise
                await asyncio.sleep(1)

    campaigns = await asyncio.gather(*(create(number) for number in range(CAMPAIGNS)))
    for campaign in campaigns:
        await system.send(campaign)
    await until_received(relay, 1)
    small = await system.create([f"small-{n}@example.test" for n in range(SMALL_RECIPIENTS)])
    await system.send(small)
    assert (await system.wait_closed(small, 120))["counts"]["sent"] == SMALL_RECIPIENTS
    for campaign in campaigns:
        assert (await system.wait_closed(campaign, 200))["counts"]["sent"] == RECIPIENTS
    assert relay.duplicates == 0
    peaks = {name: peak_megabytes(process.pid) for name, process in system.processes.items()}
    assert max(peaks.values()) <= MOST_MEGABYTES, peaks


async def start_apart(system: System) -> None:
    """Processes that are not forked from one that has imported everything: as in production."""
    for service in ("api", "dispatcher", "watchdog", "sender"):
        system.launch(service, environment={"LD_PRELOAD": ""})
    await asyncio.gather(*(process.wait_ready() for process in system.processes.values()))


async def until_received(relay: RecordingRelay, emails: int) -> None:
    async with asyncio.timeout(60):
        while len(relay.received) < emails:  # noqa: ASYNC110 - the relay is in another thread
            await asyncio.sleep(0.05)


def peak_megabytes(pid: int) -> float:
    """The most resident memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return round(int(found[1]) * 1024 / MEGABYTE, 1)
