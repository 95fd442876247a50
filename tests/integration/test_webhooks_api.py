"""`/v1/webhooks`: created, shown, changed, rotated, tested, replayed, deleted; only within the project."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlmodel import col

from shared.ledger import keys, outbox, projects, webhooks
from shared.ledger.database import db_now
from shared.ledger.facts import Fact, FactType
from shared.ledger.keys import NewKey, create_key
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.webhook_tables import WebhookEndpoint, WebhookSecret, WebhookSetAside
from shared.scopes import Scope
from tests.support.api import ApiRig, api_on

URL = "https://app.example.com/hook"


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url, webhooks_per_project=3) as rig:
        yield rig


async def create(api: ApiRig, **fields: Any) -> Any:
    return await api.request("POST", "/v1/webhooks", 201, json={"url": URL, **fields})


async def test_a_webhook_is_created_shown_changed_and_deleted(api: ApiRig) -> None:
    made = await create(api, types=["recipient.*"])
    assert made["secret"].startswith("whsec_")
    path = f"/v1/webhooks/{made['id']}"
    shown = await api.get(path)
    assert "secret" not in shown
    assert (shown["url"], shown["state"], shown["behind"], shown["set_aside"]) == (URL, "active", 0, 0)
    assert "recipient.sent" in shown["types"]
    assert (await api.get("/v1/events/settings"))["wanted"] is True, "events are written for it"
    changed = await api.request("PATCH", path, json={"state": "paused", "types": [], "url": URL + "/2"})
    assert (changed["state"], changed["types"], changed["url"]) == ("paused", [], URL + "/2")
    assert (await api.get("/v1/webhooks"))["data"] == [changed]
    await api.request("DELETE", path, 204)
    assert (await api.get("/v1/webhooks"))["data"] == []
    assert (await api.get("/v1/events/settings"))["wanted"] is False


async def test_a_disabled_webhook_is_activated_and_goes_on(api: ApiRig) -> None:
    made = await create(api)
    values = {"state": "disabled", "failing_since": 1.0, "failures": 99, "next_attempt_at": 2e9, "last_error": "500"}
    async with api.ledger.write() as connection:
        await connection.execute(update(WebhookEndpoint).values(**values))
    shown = await api.request("PATCH", f"/v1/webhooks/{made['id']}", json={"state": "active"})
    assert (shown["state"], shown["failing_since"], shown["next_attempt_at"]) == ("active", None, None)
    assert (shown["cursor"], shown["last_error"]) == (made["cursor"], "500")


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/", "app.example.com", "https://", "https://u:p@a.test/", "https://a.test/#x", "https://a.test:x/"],
)
async def test_a_url_that_cannot_be_used_is_refused(api: ApiRig, url: str) -> None:
    problem = await api.request("POST", "/v1/webhooks", 422, json={"url": url})
    assert problem["errors"][0]["pointer"] == "#/url"


async def test_types_and_numbers_are_bounded(api: ApiRig) -> None:
    problem = await api.request("POST", "/v1/webhooks", 422, json={"url": URL, "types": ["recipient.sold"]})
    assert "recipient.sold" in problem["errors"][0]["detail"]
    for _ in range(3):
        await create(api)
    problem = await api.request("POST", "/v1/webhooks", 429, json={"url": URL})
    assert "3 webhooks" in problem["detail"]


async def test_production_takes_https_only(database_url: str) -> None:
    production = {"environment": "production", "public_url": "https://mail.example.com"}
    async with api_on(database_url, **production) as api:
        await api.request("POST", "/v1/webhooks", 422, json={"url": "http://app.example.com/"})
        await api.request("POST", "/v1/webhooks", 201, json={"url": URL})


async def test_a_new_secret_signs_beside_the_old_one_for_a_day(api: ApiRig) -> None:
    made = await create(api)
    rotated = await api.request("POST", f"/v1/webhooks/{made['id']}/rotate")
    async with api.ledger.read() as connection:
        [endpoint] = (await connection.execute(select(col(WebhookEndpoint.id)))).scalars()
        assert await webhooks.valid_secrets(connection, endpoint) == [rotated["secret"], made["secret"]]
        ends = select(col(WebhookSecret.expires_at) - db_now()).where(col(WebhookSecret.secret) == made["secret"])
        left = await connection.scalar(ends)
    assert left is not None
    assert 86_000 < left <= 86_400
    assert rotated["secret"] != made["secret"]


async def test_a_test_event_is_written_for_this_webhook(api: ApiRig) -> None:
    made = await create(api)
    await api.post(f"/v1/webhooks/{made['id']}/test")
    await outbox.place(api.ledger)
    [event] = (await api.get("/v1/events"))["data"]
    assert (event["type"], event["data"]) == ("webhook.test", {"webhook_id": made["id"]})
    assert (await api.get(f"/v1/webhooks/{made['id']}"))["behind"] == 1


async def test_events_are_replayed_from_a_moment_or_those_set_aside(api: ApiRig) -> None:
    made = await create(api)
    path = f"/v1/webhooks/{made['id']}"
    async with api.ledger.write() as connection:
        await outbox.tell(connection, DEFAULT_PROJECT, [Fact(FactType.RECIPIENT_SENT)] * 3)
    await outbox.place(api.ledger)
    async with api.ledger.write() as connection:
        await connection.execute(update(WebhookEndpoint).values(cursor=3))
        [endpoint] = (await connection.execute(select(col(WebhookEndpoint.id)))).scalars()
        row = {"endpoint_id": endpoint, "position": 2, "at": db_now(), "status": 422, "error": "422 no"}
        await connection.execute(insert(WebhookSetAside).values(**row))
    [listed] = (await api.get(f"{path}/set-aside"))["data"]
    assert (listed["position"], listed["status"], listed["error"], listed["again"]) == (2, 422, "422 no", False)
    assert await api.post(f"{path}/replay", {"set_aside": True}) == {"events": 1}
    assert (await api.get(f"{path}/set-aside"))["data"][0]["again"] is True
    await api.post(f"{path}/replay", {"since": "2020-01-01T00:00:00Z"})
    assert (await api.get(path))["cursor"] == 0
    for wrong in ({}, {"since": "2020-01-01T00:00:00Z", "set_aside": True}, {"since": "2020-01-01"}):
        await api.post(f"{path}/replay", wrong, 422)


async def test_webhooks_of_other_projects_are_not_found(api: ApiRig) -> None:
    made = await create(api)
    async with api.ledger.write() as connection:
        other = (await projects.create(connection, "other")).id
        secret = await create_key(connection, "stranger", other)
        _, reader = await keys.create(
            connection, NewKey("reader", DEFAULT_PROJECT, scopes=frozenset({Scope.CAMPAIGNS_READ}))
        )
    path = f"/v1/webhooks/{made['id']}"
    stranger = {"Authorization": f"Bearer {secret}"}
    assert (await api.request("GET", "/v1/webhooks", headers=stranger))["data"] == []
    for method, rest, body in (
        ("GET", "", None),
        ("PATCH", "", {"state": "paused"}),
        ("DELETE", "", None),
        ("POST", "/rotate", None),
        ("POST", "/test", {}),
        ("POST", "/replay", {"set_aside": True}),
        ("GET", "/set-aside", None),
    ):
        await api.request(method, path + rest, 404, json=body, headers=stranger)
        await api.request(method, path + rest, 403, json=body, headers={"Authorization": f"Bearer {reader}"})
    await api.get(f"/v1/webhooks/{uuid4()}", 404)
