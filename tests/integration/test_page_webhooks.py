"""The page *Webhooks*: made, shown, changed, helped; by those who may."""

import re
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update
from sqlmodel import col

from shared.ledger import keys, projects
from shared.ledger.keys import NewKey
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSetAside
from shared.scopes import Scope
from tests.support.api import ApiRig, api_on
from tests.support.visitor import Visitor, forms, text

URL = "https://app.example.com/hooks/mine"
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]+")


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as api:
        yield api


@pytest.fixture
async def person(api: ApiRig) -> Visitor:
    return await Visitor.signed_in(api)


async def made(person: Visitor) -> tuple[str, str]:
    """The path and the secret of a new webhook."""
    answer = await person.post(await person.get("/webhooks"), "/webhooks", expect=200, url=URL, types="recipient.*")
    [secret] = SECRET.findall(answer.text)
    [path] = {action.removesuffix("/rotate") for action in forms(answer.text) if action.endswith("/rotate")}
    return path, secret


async def test_a_webhook_is_made_shown_and_deleted(person: Visitor) -> None:
    assert "This project has no webhooks" in await person.get("/webhooks")
    path, secret = await made(person)
    shown = await person.get(path)
    assert secret not in shown
    assert "recipient.bounced" in shown
    assert "campaign.finished" not in shown
    assert URL in await person.get("/webhooks")
    rotated = await person.post(shown, f"{path}/rotate", expect=200)
    assert SECRET.findall(rotated.text) not in ([], [secret])
    deleted = await person.post(shown, f"{path}/delete")
    assert deleted.headers["location"] == "/webhooks?done=removed"
    await person.get(path, 404)


async def test_what_is_wrong_is_said_and_what_was_typed_is_kept(person: Visitor) -> None:
    page = await person.get("/webhooks")
    for given, said in (
        ({"url": "ftp://example.com/", "types": "recipient.*"}, "is not an https URL"),
        ({"url": "https://user@example.com/", "types": ""}, "holds a user or a fragment"),
        ({"url": URL, "types": "recipient.opened"}, "is no type of event"),
    ):
        answer = await person.post(page, "/webhooks", expect=422, **given)
        assert said in text(answer.text)
        assert f'value="{given["url"]}"' in answer.text
    path, _ = await made(person)
    answer = await person.post(await person.get(path), f"{path}/replay", expect=422, since="yesterday")
    assert "since" in text(answer.text)


async def test_it_is_tested_paused_resumed_and_replayed(api: ApiRig, person: Visitor) -> None:
    path, _ = await made(person)
    page = await person.get(path)
    assert (await person.post(page, f"{path}/test")).headers["location"] == f"{path}?done=tested"
    assert "A test event is on its way" in await person.get(f"{path}?done=tested")
    await person.post(page, f"{path}/pause")
    paused = await person.get(path)
    assert f"{path}/pause" not in forms(paused)
    await person.post(paused, f"{path}/resume")
    assert "Active" in text(await person.get(path))
    answer = await person.post(page, f"{path}/replay", since="2026-11-27T00:00")
    assert answer.headers["location"] == f"{path}?done=replayed"
    async with api.ledger.write() as connection:
        await connection.execute(update(WebhookEndpoint).values(state="disabled", last_error="500 oh dear <b>"))
        endpoint = UUID(path.rpartition("/")[2])
        aside = [{"position": at, "status": 422, "error": "422 no", "at": 1.0} for at in range(1, 61)]
        await connection.execute(insert(WebhookSetAside), [{"endpoint_id": endpoint, **one} for one in aside])
    page = await person.get(path)
    assert "500 oh dear &lt;b&gt;" in page
    assert text(page).count("422 no") == 50
    assert text(await person.get(f"{path}?cursor=50")).count("422 no") == 10
    answer = await person.post(page, f"{path}/replay", since="")
    assert answer.headers["location"] == f"{path}?again=60"
    assert "60 events that it refused" in text(await person.get(f"{path}?again=60"))
    async with api.ledger.read() as connection:
        assert set((await connection.execute(select(col(WebhookSetAside.again)))).scalars()) == {True}


async def test_only_those_who_may_see_it_and_no_other_project_does(api: ApiRig, person: Visitor) -> None:
    path, _ = await made(person)
    page = await person.get(path)
    async with api.ledger.write() as connection:
        other = await projects.create(connection, "other")
        _, stranger = await keys.create(connection, NewKey("w", other.id, frozenset({Scope.WEBHOOKS_WRITE})))
        _, reader = await keys.create(connection, NewKey("r", other.id, frozenset({Scope.CAMPAIGNS_READ})))
    visitor = Visitor.of(api)
    await visitor.sign_in(stranger)
    await visitor.get(path, 404)
    assert URL not in await visitor.get("/webhooks")
    own = forms(await visitor.get("/webhooks"))["/webhooks"]
    for action in ("rotate", "test", "pause", "resume", "replay", "delete"):
        assert (await visitor.client.post(f"{path}/{action}", data=own)).status_code == 404, action
    assert forms(await person.get(path)).keys() == forms(page).keys(), "nothing has changed"
    visitor = Visitor.of(api)
    await visitor.sign_in(reader)
    await visitor.get("/webhooks", 403)
    assert 'href="/webhooks"' not in await visitor.get("/")
