"""A POST repeated with its Idempotency-Key is done once: after an answer, at the same time, after a crash."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import delete, event, func, insert, select, update
from sqlmodel import col

from services.api.housekeeping import Housekeeping
from services.api.rest.idempotency import TAKEOVER_SECONDS, Answer, InProgressError, Once
from services.api.shapes.suppressions import Suppressed
from services.api.web.context import Project
from shared.ledger.database import db_now
from shared.ledger.keys import list_keys
from shared.ledger.models import DEFAULT_PROJECT, Campaign, IdempotencyKey
from tests.support.api import NDJSON, ApiRig, api_on, campaign_body, ndjson

KEY = {"Idempotency-Key": "4b0e9a3c"}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def campaigns(api: ApiRig) -> int:
    async with api.ledger.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(Campaign))).scalar_one())


async def keys(api: ApiRig) -> list[Any]:
    async with api.ledger.read() as connection:
        return list((await connection.execute(select(col(IdempotencyKey.status_code)))).scalars())


async def age(api: ApiRig, seconds: float) -> None:
    """Makes every key older."""
    async with api.ledger.write() as connection:
        await connection.execute(update(IdempotencyKey).values(created_at=col(IdempotencyKey.created_at) - seconds))


async def test_a_repeated_request_gets_the_first_answer(api: ApiRig) -> None:
    first = await api.client.post("/v1/campaigns", json=campaign_body(), headers=KEY)
    again = await api.client.post("/v1/campaigns", json=campaign_body(), headers=KEY)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        201,
        first.json(),
        first.headers["location"],
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert await campaigns(api) == 1


async def test_the_same_key_for_another_request_is_an_error(api: ApiRig) -> None:
    await api.post("/v1/campaigns", campaign_body(), 201, headers=KEY)
    problem = await api.post("/v1/campaigns", campaign_body(name="Other"), 422, headers=KEY)
    assert problem["type"].endswith("key-reused")
    await api.post("/v1/suppressions", campaign_body(), 422, headers=KEY)
    for key in ("", "x" * 201, "two words"):
        await api.post("/v1/campaigns", campaign_body(), 422, headers={"Idempotency-Key": key})
    assert await campaigns(api) == 1


async def test_an_error_is_not_kept(api: ApiRig) -> None:
    campaign = await api.create()
    await api.post(f"/v1/campaigns/{campaign}/send", expect=409, headers=KEY)
    assert await keys(api) == []
    await api.load(campaign, ndjson([{"email": "a@example.test"}]), NDJSON)
    sent = await api.post(f"/v1/campaigns/{campaign}/send", headers=KEY)
    assert await api.post(f"/v1/campaigns/{campaign}/send", headers=KEY) == sent
    assert len(api.bus.events) == 1


async def test_many_at_once_make_one_campaign(api: ApiRig) -> None:
    answers = await asyncio.gather(
        *(api.client.post("/v1/campaigns", json=campaign_body(), headers=KEY) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert await campaigns(api) == 1
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1


async def test_a_request_that_was_cut_off_is_taken_over_after_a_while(api: ApiRig) -> None:
    body = await _digest_of(api)
    async with api.ledger.write() as connection:
        await connection.execute(
            insert(IdempotencyKey).values(
                project_id=DEFAULT_PROJECT, key=KEY["Idempotency-Key"], request_digest=body, created_at=db_now()
            )
        )
    problem = await api.post("/v1/campaigns", campaign_body(), 409, headers=KEY)
    assert problem["type"].endswith("in-progress")
    await age(api, TAKEOVER_SECONDS + 1)
    await api.post("/v1/campaigns", campaign_body(), 201, headers=KEY)
    assert await campaigns(api) == 1


async def _digest_of(api: ApiRig) -> str:
    await api.post("/v1/campaigns", campaign_body(), 201, headers=KEY)
    async with api.ledger.write() as connection:
        digest = (await connection.execute(select(col(IdempotencyKey.request_digest)))).scalar_one()
        await connection.execute(delete(IdempotencyKey))
        await connection.execute(delete(Campaign))
    return str(digest)


async def default_project(api: ApiRig) -> Project:
    async with api.ledger.read() as connection:
        return Project(api.api, (await list_keys(connection))[0])


async def test_a_request_that_was_taken_over_has_no_effect(api: ApiRig) -> None:
    project = await default_project(api)
    slow = Once(project, "k", "d")
    assert await slow.begin() is None
    await age(api, TAKEOVER_SECONDS + 1)
    assert await Once(project, "k", "d").begin() is None

    async def finish() -> None:
        async with api.ledger.write() as connection:
            await connection.execute(update(Campaign).values(name="changed"))
            await slow.keep(connection, Answer(200, Suppressed(added=1, known=0)))

    await api.create()
    with pytest.raises(InProgressError):
        await finish()
    [shown] = (await api.get("/v1/campaigns"))["data"]
    assert shown["name"] != "changed"


async def test_a_key_that_is_released_while_it_is_looked_up_is_taken(api: ApiRig) -> None:
    """The first request fails between the INSERT and the SELECT of the second."""
    project = await default_project(api)
    first = Once(project, "k", "d")
    assert await first.begin() is None
    engine = api.ledger.engine.sync_engine
    released = False

    def release_before_the_look(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal released
        if statement.startswith("SELECT idempotency_key.request_digest") and not released:
            released = True
            connection.exec_driver_sql("DELETE FROM idempotency_key")

    event.listen(engine, "before_cursor_execute", release_before_the_look)
    try:
        assert await Once(project, "k", "d").begin() is None
    finally:
        event.remove(engine, "before_cursor_execute", release_before_the_look)
    assert released
    assert await keys(api) == [None]


async def test_an_import_is_repeated_with_its_whole_body(api: ApiRig) -> None:
    campaign = await api.create()
    body = ndjson({"email": f"p{n}@example.test"} for n in range(20))
    report = await api.load(campaign, body, {**NDJSON, **KEY})
    assert await api.load(campaign, body, {**NDJSON, **KEY}) == report
    assert (await api.load(campaign, body + body, {**NDJSON, **KEY}, 422))["type"].endswith("key-reused")
    assert (await api.show(campaign))["counts"]["total"] == 20
    other = {**NDJSON, "Idempotency-Key": "other"}
    await api.load(campaign, body + "{", other, 422)
    assert (await api.load(campaign, body, other))["duplicates"] == 20


async def test_keys_are_forgotten_after_their_time(api: ApiRig) -> None:
    await api.post("/v1/campaigns", campaign_body(), 201, headers=KEY)
    await Housekeeping(api.api, "api-test").tick()
    assert await keys(api) == [201]
    await age(api, api.api.settings.idempotency_seconds + 1)
    await Housekeeping(api.api, "api-test").tick()
    assert await keys(api) == []
