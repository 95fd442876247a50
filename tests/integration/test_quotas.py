"""What a project may do at most: tests in an hour, imports and event streams at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert, update
from sqlmodel import col

from services.api.usecases import progress
from services.api.usecases.quotas import Limits
from services.sender.db import campaigns as sender_campaigns
from shared.ledger import projects
from shared.ledger.database import db_now
from shared.ledger.models import DEFAULT_PROJECT, Campaign, Import
from tests.support.api import NDJSON, ApiRig, api_on

PERSON = {"recipients": [{"email": "ann@example.test"}]}
HOUR = 3600
LIMIT_REACHED = "urn:vashsender:problem:limit-reached"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url, tests_per_hour=3, open_imports=1, open_streams=1) as rig:
        yield rig


async def send_test(api: ApiRig, campaign: str) -> httpx.Response:
    return await api.client.post(f"/v1/campaigns/{campaign}/test", json=PERSON)


async def own_limit(api: ApiRig, **limits: int | None) -> None:
    await api.request("PATCH", f"/v1/projects/{DEFAULT_PROJECT}", json=limits)


async def test_a_project_sends_so_many_tests_in_an_hour(api: ApiRig) -> None:
    campaign, other = await api.create(1), await api.create(1)
    answers = [await send_test(api, one) for one in (campaign, other, campaign, campaign)]
    assert [one.status_code for one in answers] == [202, 202, 202, 429]
    assert [one.headers["RateLimit-Remaining"] for one in answers] == ["2", "1", "0", "0"]
    refused = answers[-1]
    assert (refused.json()["type"], refused.json()["limit"]) == (LIMIT_REACHED, "tests_per_hour")
    assert refused.headers["RateLimit-Limit"] == "3"
    assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
    assert 0 < int(refused.headers["Retry-After"]) <= HOUR
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).values(created_at=col(Campaign.created_at) - HOUR))
    assert (await send_test(api, campaign)).status_code == 202


async def test_tests_at_once_do_not_pass_the_limit_together(api: ApiRig) -> None:
    campaigns = [await api.create(1) for _ in range(6)]
    answers = await asyncio.gather(*(send_test(api, one) for one in campaigns))
    assert sorted(one.status_code for one in answers) == [202] * 3 + [429] * 3


async def test_a_project_may_have_limits_of_its_own(api: ApiRig) -> None:
    campaign = await api.create(1)
    await own_limit(api, tests_per_hour=0)
    assert (await send_test(api, campaign)).status_code == 429
    await own_limit(api, tests_per_hour=None)
    assert (await send_test(api, campaign)).status_code == 202


async def test_a_test_counts_under_the_limit_of_its_campaign_and_goes_before_no_one(api: ApiRig) -> None:
    campaign = await api.create(1, emails_per_second=0.01, priority=-5)
    test = (await send_test(api, campaign)).json()
    assert (test["priority"], test["rates"]["limit_per_second"]) == (-5, 0.01)
    row, _ = await sender_campaigns.read(api.ledger, UUID(test["id"]))
    assert row.test_of == UUID(campaign)


async def test_a_project_has_so_many_imports_open_at_once(api: ApiRig) -> None:
    busy, waiting = await api.create(), await api.create()
    async with api.ledger.write() as connection:
        await connection.execute(
            insert(Import).values(
                campaign_id=UUID(busy), format="csv", state="open", created_at=db_now(), updated_at=db_now()
            )
        )
    line = '{"email": "ann@example.test"}\n'
    problem = await api.load(waiting, line, NDJSON, 429)
    assert problem["limit"] == "open_imports"
    await own_limit(api, open_imports=2)
    await api.load(waiting, line, NDJSON)


async def test_a_project_holds_so_many_streams_open_at_once(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = await api.create(1)
    path = f"/v1/campaigns/{campaign}/events"
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="cancelled"))
        project = await projects.find(connection, project_id=DEFAULT_PROJECT)
    assert project is not None
    looked, look = [], progress.look

    async def watched(*arguments: Any) -> Any:
        looked.append(api.api.streams.count(DEFAULT_PROJECT))
        return await look(*arguments)

    monkeypatch.setattr(progress, "look", watched)
    assert (await api.client.get(path)).status_code == 200
    assert (looked, api.api.streams.count(DEFAULT_PROJECT)) == ([1], 0), "the stream held a place until its end"
    with api.api.streams.place(project, Limits(3, 1, 1)):
        problem = await api.get(path, 429)
    assert problem["limit"] == "open_streams"
    assert (await api.client.get(path)).status_code == 200
