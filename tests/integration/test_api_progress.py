"""Watching a campaign: live events, the timeline, batches and services."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlmodel import col

from services.api.housekeeping import Housekeeping
from shared.ledger.models import Campaign, ServiceInstance
from tests.support.api import ApiRig, api_on
from tests.support.ledger import FakeSender
from tests.support.services import DispatcherRig, register_sender


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


def events_in(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_each_change_is_an_event_and_the_stream_ends_with_the_campaign(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.rest.progress.LOOK_SECONDS", 0.02)
    campaign = await api.create(4)
    watching = asyncio.create_task(api.client.get(f"/v1/campaigns/{campaign}/events"))
    await api.post(f"/v1/campaigns/{campaign}/send")
    dispatcher, sender = DispatcherRig.on(api.ledger, batch_size=2), FakeSender(api.ledger)
    await register_sender(api.ledger, 1)
    await dispatcher.settle()
    while await sender.send_all_released():
        await dispatcher.settle()
    async with asyncio.timeout(10):
        events = events_in((await watching).text)
    assert [name for name, _ in events] == ["progress"] * (len(events) - 1) + ["closed"]
    last = events[-1][1]
    assert (last["status"], last["counts"]["sent"]) == ("finished", 4)
    states = [{**data, "at": None, "rates": None} for _, data in events]
    assert len({json.dumps(state) for state in states}) >= 2
    again = events_in((await api.client.get(f"/v1/campaigns/{campaign}/events")).text)
    assert [name for name, _ in again] == ["closed"]


async def test_events_end_when_the_process_stops_or_the_campaign_is_deleted(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.rest.progress.LOOK_SECONDS", 0.02)
    first, second = await api.create(), await api.create()
    watching = [asyncio.create_task(api.client.get(f"/v1/campaigns/{one}/events")) for one in (first, second)]
    await api.request("DELETE", f"/v1/campaigns/{first}", 204)
    async with asyncio.timeout(10):
        await watching[0]
        api.api.stopping.set()
        await watching[1]


async def test_the_timeline_lists_what_happened_in_order(api: ApiRig) -> None:
    campaign = await api.create(1)
    for action in ("send", "pause", "resume", "cancel"):
        await api.post(f"/v1/campaigns/{campaign}/{action}")
    path = f"/v1/campaigns/{campaign}/timeline"
    whole = await api.get(path)
    assert [entry["kind"] for entry in whole["data"]] == ["created", "requested", "paused", "resumed", "cancelling"]
    assert all(entry["text"] and entry["times"] == 1 for entry in whole["data"])
    page = await api.get(path, limit=2)
    rest = await api.get(path, limit=10, cursor=page["next_cursor"])
    assert page["data"] + rest["data"] == whole["data"]


async def test_batches_are_listed_by_state(api: ApiRig) -> None:
    campaign = await api.create(5)
    await api.post(f"/v1/campaigns/{campaign}/send")
    await register_sender(api.ledger, 2)
    await DispatcherRig.on(api.ledger, batch_size=2).settle()
    released = (await api.get("/v1/batches", state="released"))["data"]
    assert [(batch["campaign_id"], batch["size"], batch["counts"]["pending"]) for batch in released] == [
        (campaign, 2, 2)
    ] * 2
    assert (await api.get("/v1/batches", state=["done", "cancelled"]))["data"] == []
    page = await api.get("/v1/batches", limit=1, campaign_id=campaign)
    assert page["data"] == released[:1]
    assert (await api.get("/v1/batches", limit=1, cursor=page["next_cursor"]))["data"] == released[1:]
    await api.get("/v1/batches", 422, state="lost")


async def test_a_service_that_has_not_reported_is_not_alive(api: ApiRig) -> None:
    await Housekeeping(api.api, "api-1").tick()
    await register_sender(api.ledger, 3, "sender-9@test")
    async with api.ledger.write() as connection:
        await connection.execute(
            update(ServiceInstance)
            .where(col(ServiceInstance.service) == "sender")
            .values(seen_at=col(ServiceInstance.seen_at) - 21)
        )
    services = (await api.get("/v1/services"))["data"]
    assert [(one["id"], one["alive"], one["slots"]) for one in services] == [
        ("api-1", True, 0),
        ("sender-9@test", False, 3),
    ]
    await Housekeeping(api.api, "api-1").farewell()
    assert (await api.get("/v1/services"))["data"][0]["draining"]


async def test_what_blocks_a_campaign_is_shown(api: ApiRig) -> None:
    campaign = await api.create(1)
    async with api.ledger.write() as connection:
        await connection.execute(
            update(Campaign)
            .where(col(Campaign.id) == UUID(campaign))
            .values(blocked_by="all relays rest", reason="why")
        )
    shown = await api.show(campaign)
    assert (shown["blocked_by"], shown["reason"]) == ("all relays rest", "why")
