"""The audit: every change has one entry, written in its transaction; none has an address; old ones can be deleted."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlmodel import col

from services.api.housekeeping import Housekeeping
from services.api.usecases import audit as usecase
from shared.ledger import audit, keys
from shared.ledger.audit import Actor, Wanted
from shared.ledger.database import Ledger, db_now
from shared.ledger.keys import NewKey
from shared.ledger.tenants import AuditEntry
from shared.scopes import Scope
from tests.support.api import NDJSON, ApiRig, api_on, campaign_body
from tests.support.visitor import Visitor

DAY = 86_400.0


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def entries(api: ApiRig) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = (await api.get("/v1/audit", limit=1000))["data"]
    return found[::-1]


async def done(api: ApiRig) -> list[tuple[str, str]]:
    return [(one["action"], one["result"]) for one in await entries(api)]


async def test_every_change_has_one_entry_and_looking_has_none(api: ApiRig) -> None:
    campaign = (await api.post("/v1/campaigns", campaign_body(), 201, headers={"Idempotency-Key": "k"}))["id"]
    await api.post("/v1/campaigns", campaign_body(), 201, headers={"Idempotency-Key": "k"})
    path = f"/v1/campaigns/{campaign}"
    await api.request("PATCH", path, json={"name": "Summer"})
    await api.load(campaign, '{"email": "ann@example.test"}\n', NDJSON)
    await api.get(path)
    await api.post(f"{path}/preview", {}, 200)
    await api.post(f"{path}/send", {}, headers={"Idempotency-Key": "s"})
    await api.post(f"{path}/pause")
    await api.post("/v1/suppressions", {"email": "bob@example.test"}, 200)
    await api.request("DELETE", "/v1/suppressions", 204, params={"email": "bob@example.test"})
    found = await entries(api)
    assert [(one["action"], one["result"]) for one in found] == [
        ("POST /v1/campaigns", "done"),
        ("PATCH /v1/campaigns/{campaign_id}", "done"),
        ("POST /v1/campaigns/{campaign_id}/recipients", "done"),
        ("POST /v1/campaigns/{campaign_id}/send", "done"),
        ("POST /v1/campaigns/{campaign_id}/pause", "done"),
        ("POST /v1/suppressions", "done"),
        ("DELETE /v1/suppressions", "done"),
    ]
    assert {one["target"] for one in found[:5]} == {f"campaign_id={campaign}"}
    assert {(one["via"], one["actor_name"], one["address"]) for one in found} == {("api", "test", "127.0.0.1")}
    assert "@" not in json.dumps(found)


async def test_what_was_refused_is_noted_with_its_reason(api: ApiRig) -> None:
    campaign = await api.create()
    await api.post(f"/v1/campaigns/{campaign}/send", {}, 409)
    await api.post("/v1/campaigns", {"name": ""}, 422)
    await api.load(campaign, "not json\n", NDJSON, 422)
    await api.request("DELETE", "/v1/domains/ann@example.test", 422)
    async with api.ledger.write() as connection:
        _, secret = await keys.create(connection, NewKey("reader", scopes=frozenset({Scope.CAMPAIGNS_READ})))
    operator = api.client.headers["Authorization"]
    api.client.headers["Authorization"] = f"Bearer {secret}"
    await api.request("DELETE", f"/v1/campaigns/{campaign}", 403)
    api.client.headers["Authorization"] = "Bearer vs_" + "x" * 43
    await api.request("DELETE", f"/v1/campaigns/{campaign}", 401)
    api.client.headers["Authorization"] = operator
    assert (await done(api))[1:] == [
        ("POST /v1/campaigns/{campaign_id}/send", "refused: no-recipients"),
        ("POST /v1/campaigns", "refused: invalid"),
        ("POST /v1/campaigns/{campaign_id}/recipients", "done"),
        ("POST /v1/campaigns/{campaign_id}/recipients", "refused: malformed-file"),
        ("DELETE /v1/domains/{name}", "refused: invalid"),
        ("DELETE /v1/campaigns/{campaign_id}", "refused: missing-scope"),
    ]
    assert "@" not in json.dumps(await entries(api))


async def test_an_entry_is_lost_only_with_its_change(api: ApiRig) -> None:
    """The process dies between the last statement and the commit, again and again."""
    campaign = await api.create(1)
    before = await done(api)

    def die(_connection: object) -> None:
        raise ConnectionResetError("the process died here")

    event.listen(api.ledger.engine.sync_engine, "commit", die)
    try:
        answer = await api.client.post(f"/v1/campaigns/{campaign}/send", json={})
        assert answer.status_code == 503
    finally:
        event.remove(api.ledger.engine.sync_engine, "commit", die)
    assert (await api.show(campaign))["status"] == "draft"
    assert await done(api) == before


async def test_what_people_do_on_the_page_is_noted(api: ApiRig) -> None:
    visitor = await Visitor.signed_in(api)
    await visitor.post(await visitor.get("/suppressions"), "/suppressions", emails="ann@example.test")
    await visitor.post(await visitor.get("/"), "/sign-out")
    found = await entries(api)
    assert [(one["via"], one["action"], one["target"], one["result"]) for one in found] == [
        ("page", "POST /sign-in", "", "done"),
        ("page", "POST /suppressions", "added=1", "done"),
        ("page", "POST /sign-out", "", "done"),
    ]


async def test_the_work_of_the_service_itself_is_not_noted(api: ApiRig) -> None:
    await Housekeeping(api.api, "api-1").tick()
    assert await done(api) == []


async def test_entries_are_found_by_project_actor_and_time_page_by_page(api: ApiRig) -> None:
    for number in range(5):
        await api.post("/v1/projects", {"name": f"project-{number}"}, 201)
    first = await api.get("/v1/audit", limit=3)
    second = await api.get("/v1/audit", limit=3, cursor=first["next_cursor"])
    assert (len(first["data"]), len(second["data"]), second["next_cursor"]) == (3, 2, None)
    actor = first["data"][0]["actor"]
    assert len((await api.get("/v1/audit", actor=actor))["data"]) == 5
    assert (await api.get("/v1/audit", actor="someone"))["data"] == []
    assert (await api.get("/v1/audit", since="2200-01-01T00:00:00Z"))["data"] == []
    assert (await api.get("/v1/audit", project_id=actor))["data"] == []


async def test_the_audit_is_exported_whole(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.usecases.audit.EXPORT_ROWS", 2)
    for number in range(5):
        await api.post("/v1/projects", {"name": f"project-{number}"}, 201)
    ids = [one["id"] for one in (await api.get("/v1/audit"))["data"]]
    lines = await api.client.get("/v1/audit/export", params={"format": "ndjson"})
    assert [json.loads(line)["id"] for line in lines.text.splitlines()] == ids
    table = await api.client.get("/v1/audit/export")
    assert [int(row["id"]) for row in csv.DictReader(io.StringIO(table.text))] == ids


async def test_a_cell_of_the_export_is_never_a_formula(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        await audit.record(connection, Actor("command", "=cmd()", "machine"), "key create")
    text = "".join([part async for part in usecase.export(ledger, Wanted(), "csv")])
    assert "'=cmd()" in text


async def test_old_entries_are_deleted_and_new_ones_stay(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FORGET_ROWS", 2)
    actor = Actor("command", "ann", "machine")
    async with ledger.write() as connection:
        for number in range(5):
            await audit.record(connection, actor, f"act {number}")
        old = update(AuditEntry).where(col(AuditEntry.id) <= 3)
        await connection.execute(old.values(at=db_now() - 401 * DAY))
        assert [await audit.forget(connection, 400 * DAY) for _ in range(3)] == [2, 1, 0]
        assert [one.action for one in await audit.list_entries(connection, Wanted())] == ["act 4", "act 3"]
