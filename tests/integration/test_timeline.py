"""What a client reads of a campaign's life: every step is in the timeline, in order and in words."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlmodel import col

from shared.ledger.database import Ledger
from shared.ledger.models import Timeline
from shared.settings import WatchdogSettings
from tests.support.broker import BrokerVhost
from tests.support.ledger import add_campaign, timeline_of
from tests.support.relay import After, RecordingRelay
from tests.support.services import WatchdogRig
from tests.support.system import System, installation

RECIPIENTS = 900
LATER = {f"person-{number}@example.test" for number in range(0, RECIPIENTS, 150)}
LIFE = (
    *("created", "imported", "requested", "started", "paused", "resumed", "continued"),
    *("rescued", "blocked", "unblocked", "deferred", "finished"),
)
WORDS = {
    "imported": "Imported 900 recipients from NDJSON",
    "requested": "900 recipients",
    "blocked": "No relay can be used: relay 127.0.0.1",
    "deferred": "will be tried again",
    "finished": "finished: 900 of 900 sent",
}
KEPT = WatchdogSettings.model_fields["timeline_entries"].default


@pytest.mark.timeout(300)
async def test_a_whole_life(tmp_path: Path, sqlite_url: str, broker_vhost: BrokerVhost, relay: RecordingRelay) -> None:
    relay.behaviour.seconds_per_email = 0.2
    relay.behaviour.dot = lambda rcpt, tries: b"451 4.2.0 later\r\n" if rcpt in LATER and not tries else After.ACCEPT
    async with installation(
        tmp_path, sqlite_url, broker_vhost.admin_url, broker_vhost.services_url, relay,
        batch_size="300", relay_rest_seconds="1", relay_rest_max_seconds="1",
    ) as system:  # fmt: skip
        await system.start(senders=1)
        campaign = await system.create(RECIPIENTS, retry_delay_seconds=1)
        await system.send(campaign)
        await _sent(system, campaign, 20)
        await system.post(f"/campaigns/{campaign}/pause")
        await system.post(f"/campaigns/{campaign}/resume")
        await _sent(system, campaign, 60)
        sender = system.processes["sender-1"]
        await asyncio.to_thread(sender.kill)
        sender.launch()
        await _told(system, campaign, "rescued")
        await asyncio.to_thread(relay.stop)
        await _told(system, campaign, "blocked")
        await asyncio.to_thread(relay.start)
        relay.behaviour.seconds_per_email = 0.0
        await system.wait_closed(campaign, 120)
        entries = await _timeline(system, campaign)
    kinds = [entry["kind"] for entry in entries]
    assert [kind for kind in LIFE if kind not in kinds] == []
    first = [kinds.index(kind) for kind in LIFE if kind not in ("unblocked", "deferred")]
    assert first == sorted(first), kinds
    moments = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert moments == sorted(moments)
    for kind, words in WORDS.items():
        assert words in next(entry["text"] for entry in entries if entry["kind"] == kind)
    why = {entry["text"] for entry in entries if entry["kind"] == "rescued"}
    assert [text for text in why if "A sender restarted" in text or "its lease ran out" in text]


async def test_it_is_bounded_and_keeps_its_beginning(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 1, status="paused")
    async with ledger.write() as connection:
        rows = [{"kind": f"kind {number}"} for number in range(KEPT + 200)]
        entry = insert(Timeline).values(campaign_id=campaign, text="it happened", at=0.0, last_at=0.0, times=1)
        await connection.execute(entry, rows)
    await WatchdogRig.on(ledger).sweep()
    kinds = [kind for kind, _ in await timeline_of(ledger, campaign)]
    assert len(kinds) == KEPT == 1000
    assert (kinds[0], kinds[-1]) == ("kind 0", f"kind {KEPT + 199}")
    async with ledger.read() as connection:
        assert await connection.scalar(select(func.max(func.length(col(Timeline.text))))) <= 500
        assert (await connection.execute(text("SELECT count(*) FROM timeline"))).scalar_one() == KEPT


async def _sent(system: System, campaign: str, emails: int) -> None:
    await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] >= emails)


async def _timeline(system: System, campaign: str) -> Sequence[dict[str, Any]]:
    async with system.client() as client:
        entries: list[dict[str, Any]] = (
            (await client.get(f"/campaigns/{campaign}/timeline", params={"limit": 100})).raise_for_status().json()
        )["data"]
    return entries


async def _told(system: System, campaign: str, kind: str) -> None:
    """Once the timeline says so."""
    async with asyncio.timeout(90):
        while kind not in [entry["kind"] for entry in await _timeline(system, campaign)]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
