"""`/v1/events`: complete, in order, only the project's own, bounded; in pages and as a stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from services.api.rest import events as rest_events
from services.api.usecases import events as usecase
from services.dispatcher.outbox import OutboxClerk
from shared.ledger import event_feed, outbox, projects
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.outbox_tables import EventStream
from tests.support.api import ApiRig, api_on
from tests.support.ledger import add_campaign
from tests.support.seeds import seed_campaign
from tests.support.services import DispatcherRig


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def tell(api: ApiRig, *facts: Fact) -> None:
    async with api.ledger.write() as connection:
        await outbox.tell(connection, DEFAULT_PROJECT, facts)


def numbered(number: int, kind: FactType = FactType.WEBHOOK_TEST) -> Fact:
    return Fact(kind, details={"number": number})


def numbers(page: dict[str, Any]) -> list[int]:
    return [event["data"]["number"] for event in page["data"]]


async def test_a_project_enables_events_and_reads_them_to_the_end(api: ApiRig) -> None:
    assert (await api.get("/v1/events"))["enabled"] is False
    await tell(api, numbered(0))
    settings = await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    assert settings == {"enabled": True, "wanted": True, "last_position": 0, "forgotten_position": 0}
    for start in range(0, 12, 3):
        await tell(api, *(numbered(start + step) for step in range(3)))
    assert (await api.get("/v1/events"))["data"] == [], "none has a position yet"
    assert await outbox.place(api.ledger) == 12
    seen: list[int] = []
    after = 0
    while True:
        page = await api.get("/v1/events", after=after, limit=5)
        if not page["data"]:
            break
        seen += numbers(page)
        assert [event["position"] for event in page["data"]] == list(range(after + 1, after + len(page["data"]) + 1))
        after = int(page["next_cursor"])
    assert seen == list(range(12))
    assert (page["last_position"], page["next_cursor"]) == (12, "12")
    ids = [event["id"] for event in (await api.get("/v1/events"))["data"]]
    assert len(set(ids)) == 12
    assert ids == [event["id"] for event in (await api.get("/v1/events"))["data"]], "an id never changes"
    await api.request("PUT", "/v1/events/settings", json={"enabled": False})
    await tell(api, numbered(99))
    assert await outbox.place(api.ledger) == 0


async def test_types_are_chosen_and_unknown_ones_are_refused(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    kinds = (FactType.RECIPIENT_SENT, FactType.CAMPAIGN_PAUSED, FactType.RECIPIENT_FAILED)
    await tell(api, *(numbered(number, kind) for number, kind in enumerate(kinds * 4)))
    await outbox.place(api.ledger)
    assert numbers(await api.get("/v1/events", types="campaign.*")) == [1, 4, 7, 10]
    assert numbers(await api.get("/v1/events", types="recipient.failed,campaign.paused", limit=3)) == [1, 2, 4]
    page = await api.get("/v1/events", types="campaign.finished")
    assert (page["data"], page["next_cursor"]) == ([], "12"), "what was looked at need not be looked at again"
    problem = await api.request("GET", "/v1/events?types=recipient.sold", 422)
    assert "recipient.sold" in problem["errors"][0]["detail"]
    for wrong in ("after=-1", "after=x", f"after={2**70}", "limit=0", "limit=1001"):
        await api.request("GET", f"/v1/events?{wrong}", 422)


async def test_an_event_of_a_recipient_names_the_address_as_long_as_it_is_there(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    seeded = await seed_campaign(api.ledger, 2)
    facts = [Fact(FactType.RECIPIENT_SENT, seeded.id, recipient) for recipient in (*seeded.recipient_ids, 10**9)]
    await tell(api, *facts)
    await outbox.place(api.ledger)
    data = [event["data"] for event in (await api.get("/v1/events"))["data"]]
    assert [one.get("email") for one in data][2] is None
    assert all("@" in one["email"] for one in data[:2])


async def test_a_project_reads_only_its_own_events(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    async with api.ledger.write() as connection:
        other = (await projects.create(connection, "other")).id
        await connection.execute(insert(EventStream).values(project_id=other, wanted=True))
        await outbox.tell(connection, other, [numbered(1), numbered(2)])
        await outbox.tell(connection, DEFAULT_PROJECT, [numbered(3)])
    await outbox.place(api.ledger)
    page = await api.get("/v1/events")
    assert numbers(page) == [3]
    assert (page["last_position"], page["data"][0]["position"]) == (1, 1), "positions say nothing about other projects"


async def test_a_reader_behind_the_retention_is_told(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    await tell(api, numbered(1), numbered(2))
    await outbox.place(api.ledger)
    await outbox.forget(api.ledger, -1.0, 10)
    await tell(api, numbered(3))
    await outbox.place(api.ledger)
    problem = await api.request("GET", "/v1/events?after=1", 410)
    assert (problem["type"], problem["forgotten_position"]) == ("urn:vashsender:problem:events-gone", 2)
    assert numbers(await api.get("/v1/events", after=2)) == [3]
    assert numbers(await api.get("/v1/events")) == [3], "0 begins with the oldest there is"


async def test_a_stream_sends_what_is_there_and_what_comes(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    await tell(api, numbered(1), numbered(2), numbered(3))
    await outbox.place(api.ledger)
    monkeypatch.setattr(rest_events, "LOOK_SECONDS", 0.01)
    asked, look = asyncio.Event(), rest_events._next

    async def watched(project: Any, after: int, types: frozenset[str]) -> Any:
        """Says when the first three were read, and stops the process when the fourth was."""
        if after == 3:
            asked.set()
        if after == 4:
            api.api.stopping.set()
        return await look(project, after, types)

    monkeypatch.setattr(rest_events, "_next", watched)
    reading = asyncio.create_task(api.client.get("/v1/events/stream", headers={"Last-Event-ID": "1"}))
    async with asyncio.timeout(60):
        await asked.wait()
        await tell(api, numbered(4))
        await outbox.place(api.ledger)
        lines = (await reading).text.splitlines()
    seen = [orjson.loads(line[6:])["data"]["number"] for line in lines if line.startswith("data: ")]
    assert seen == [2, 3, 4]
    assert [line for line in lines if line.startswith("id: ")] == ["id: 2", "id: 3", "id: 4"]


async def test_a_stream_that_falls_behind_the_retention_ends(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    await tell(api, numbered(1), numbered(2))
    await outbox.place(api.ledger)
    look = rest_events._next

    async def late(project: Any, after: int, types: frozenset[str]) -> Any:
        await outbox.forget(api.ledger, -1.0, 10)
        return await look(project, after, types)

    monkeypatch.setattr(rest_events, "_next", late)
    answer = await asyncio.wait_for(api.client.get("/v1/events/stream?after=1"), 60)
    assert "event: gone" in answer.text
    await api.request("GET", "/v1/events/stream?after=1", 410)


async def test_reading_is_bounded_however_many_events_there_are(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "WINDOW", 4)
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    for number in range(10):
        await tell(api, numbered(number))
    await tell(api, numbered(10, FactType.CAMPAIGN_PAUSED))
    await outbox.place(api.ledger)
    found: list[int] = []
    async with api.ledger.read() as connection:
        after, looks = 0, 0
        while after < 11:
            page = await usecase.read(connection, DEFAULT_PROJECT, after, 100, {"campaign.paused"})
            assert int(page["next_cursor"]) > after
            found, after, looks = found + numbers(page), int(page["next_cursor"]), looks + 1
    assert found == [10]
    assert looks == 3


class _Counts:
    """Counters that add up."""

    def __init__(self) -> None:
        self.events_placed = self.events_forgotten = self
        self.value = 0

    def inc(self, by: int) -> None:
        self.value += by


async def test_the_dispatcher_places_and_forgets(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    await add_campaign(api.ledger, 1)
    await tell(api, numbered(1))
    counts = _Counts()
    clerk = OutboxClerk(api.ledger, counts, -1.0)  # type: ignore[arg-type]
    await clerk.place()
    assert (counts.value, numbers(await api.get("/v1/events"))) == (1, [1])
    await clerk.forget()
    assert (await api.get("/v1/events"))["data"] == []
    assert (await api.get("/v1/events/settings"))["forgotten_position"] == 1


async def test_while_no_batch_is_out_a_round_says_that_there_is_something_to_place(api: ApiRig) -> None:
    await api.request("PUT", "/v1/events/settings", json={"enabled": True})
    rig, counts = DispatcherRig.on(api.ledger), _Counts()
    unplaced = rig.dispatcher.unplaced
    clerk = OutboxClerk(
        api.ledger,
        counts,  # type: ignore[arg-type]
        60.0,
        rig.dispatcher.out_lately,
        unplaced=unplaced,
    )
    placing = asyncio.create_task(clerk.place())
    await rig.settle()
    await tell(api, numbered(1))
    assert (unplaced.is_set(), placing.done()) == (False, False)
    await rig.round()
    assert unplaced.is_set()
    await placing
    assert (counts.value, unplaced.is_set()) == (1, False)
    await rig.round()
    assert not unplaced.is_set()
