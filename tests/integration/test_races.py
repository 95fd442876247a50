"""Two changes of keys and projects at the same moment, and keys that end in the middle of an answer."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from sqlalchemy import exists, select
from sqlmodel import col

from services.api.web import streams
from shared.ledger import keys, projects
from shared.ledger.campaigns import not_closed
from shared.ledger.database import Ledger
from shared.ledger.keys import Key, NewKey
from shared.ledger.models import DEFAULT_PROJECT, Campaign
from shared.scopes import EVERY_SCOPE
from tests.support.api import ApiRig, api_on

ROUNDS = 8


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def new_key(ledger: Ledger, project: UUID = DEFAULT_PROJECT) -> tuple[UUID, str]:
    async with ledger.write() as connection:
        return await keys.create(connection, NewKey("test", project, EVERY_SCOPE))


async def all_keys(ledger: Ledger) -> dict[UUID, Key]:
    async with ledger.read() as connection:
        return {key.id: key for key in await keys.list_keys(connection)}


async def test_rotations_at_once_each_give_a_key_that_works(api: ApiRig) -> None:
    old, _ = await new_key(api.ledger)
    path = f"/v1/keys/{old}/rotate"
    made = await asyncio.gather(*(api.post(path, {"overlap_hours": hours}, 201) for hours in (1, 2, 3)))
    for one in made:
        await api.request("GET", "/v1/campaigns", headers={"Authorization": f"Bearer {one['key']}"})
    known = await all_keys(api.ledger)
    assert [known[UUID(one["id"])].expires_at for one in made] == [None] * 3
    ends_at = known[old].expires_at
    assert ends_at is not None
    async with api.ledger.read() as connection:
        assert await keys.find(connection, key_id=old) is not None
    assert ends_at < await api.ledger.now() + 3601, "the shortest overlap counts"


async def test_a_key_that_is_revoked_while_it_is_rotated_is_not_replaced(api: ApiRig) -> None:
    """The key is read, then revoked by another, then rotated."""
    old, _ = await new_key(api.ledger)
    async with api.ledger.read() as connection:
        found = await keys.find(connection, key_id=old)
    assert found is not None
    await api.request("DELETE", f"/v1/keys/{old}", 204)
    before = set(await all_keys(api.ledger))
    async with api.ledger.write() as connection:
        assert await keys.rotate(connection, found, 3600.0) is None
    assert set(await all_keys(api.ledger)) == before


async def test_no_project_is_closed_with_a_campaign_under_way(api: ApiRig) -> None:
    outcomes = set()
    for number in range(ROUNDS):
        project = UUID((await api.post("/v1/projects", {"name": f"p{number}"}, 201))["id"])
        _, secret = await new_key(api.ledger, project)
        own = {"Authorization": f"Bearer {secret}"}
        body = {
            "name": "n",
            "from": {"email": "a@example.com"},
            "subject": "s",
            "text": "t",
            "recipients": [{"email": "ann@example.test"}],
        }
        campaign = (await api.post("/v1/campaigns", body, 201, headers=own))["id"]
        sent, closed = await asyncio.gather(
            api.client.post(f"/v1/campaigns/{campaign}/send", json={}, headers=own),
            api.client.post(f"/v1/projects/{project}/close", json={}),
        )
        assert sent.status_code in (202, 401, 409)
        assert closed.status_code in (200, 409)
        outcomes.add((sent.status_code == 202, closed.status_code == 200))
        async with api.ledger.read() as connection:
            under_way = await connection.scalar(
                select(exists().where(col(Campaign.project_id) == project, not_closed()))
            )
            found = await projects.find(connection, project_id=project)
        assert found is not None
        assert not (under_way and found.closed_at)
    assert outcomes <= {(True, False), (False, True)}, "one of them wins"


@pytest.mark.parametrize("end", ["revoked", "closed"])
@pytest.mark.parametrize("stream", ["/v1/campaigns/{}/events", "/v1/events/stream"])
async def test_a_stream_ends_with_its_key(api: ApiRig, monkeypatch: pytest.MonkeyPatch, stream: str, end: str) -> None:
    monkeypatch.setattr(streams, "KEY_SECONDS", 0.0)
    project = UUID((await api.post("/v1/projects", {"name": "p"}, 201))["id"])
    key, secret = await new_key(api.ledger, project)
    own = {"Authorization": f"Bearer {secret}"}
    body = {"name": "n", "from": {"email": "a@example.com"}, "subject": "s", "text": "t"}
    campaign = (await api.post("/v1/campaigns", body, 201, headers=own))["id"]
    asked = asyncio.Event()
    is_valid = streams.KeyWatch.is_valid

    async def watched(self: streams.KeyWatch) -> bool:
        found = await is_valid(self)
        asked.set()
        return found

    monkeypatch.setattr(streams.KeyWatch, "is_valid", watched)
    reading: asyncio.Task[httpx.Response] = asyncio.create_task(api.client.get(stream.format(campaign), headers=own))
    async with asyncio.timeout(60):
        await asked.wait()
        assert not reading.done()
        if end == "revoked":
            await api.request("DELETE", f"/v1/keys/{key}", 204)
        else:
            await api.post(f"/v1/projects/{project}/close", {}, 200)
        assert (await reading).status_code == 200
    assert api.api.streams.count(project) == 0
