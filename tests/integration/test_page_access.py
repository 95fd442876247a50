"""The page *Access*: domains, keys, projects and the audit, as operators change them, and streams under the limit."""

import re
from collections.abc import AsyncIterator

import pytest

from services.api.web import domain_checks
from shared.deliverability.check import Finding, Setup, Verdict
from shared.deliverability.dns import Dns
from shared.ledger import domains, keys, projects
from shared.ledger.keys import NewKey
from shared.ledger.models import DEFAULT_PROJECT
from shared.scopes import Scope
from tests.support.api import ApiRig, api_on
from tests.support.visitor import Visitor, forms, text


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as api:
        yield api


@pytest.fixture
async def operator(api: ApiRig) -> Visitor:
    return await Visitor.signed_in(api)


async def a_reader(api: ApiRig) -> Visitor:
    """A person of another project who may only look."""
    async with api.ledger.write() as connection:
        project = await projects.create(connection, "other")
        _, secret = await keys.create(connection, NewKey("reader", project.id, frozenset({Scope.CAMPAIGNS_READ})))
    visitor = Visitor.of(api)
    await visitor.sign_in(secret)
    return visitor


async def test_a_key_is_made_shown_once_rotated_and_revoked(api: ApiRig, operator: Visitor) -> None:
    page = await operator.get("/access/keys")
    fields = {"name": "website", "scopes": ["campaigns:read", "campaigns:write"], "domains": "news.example.com"}
    made = (await operator.post(page, "/access/keys", expect=200, **fields)).text
    secret = re.findall(r"vs_[A-Za-z0-9_-]{43}", made)
    assert len(secret) == 1
    assert secret[0] not in await operator.get("/access/keys")
    async with api.ledger.read() as connection:
        key = await keys.find(connection, secret=secret[0])
    assert key is not None
    assert (key.name, sorted(key.scopes)) == ("website", [Scope.CAMPAIGNS_READ, Scope.CAMPAIGNS_WRITE])
    assert key.sender_domains == ("news.example.com",)
    hidden = forms(page)["/access/keys"] | {"key_id": str(key.id)}
    rotated = await operator.client.post("/access/keys/rotate", data=hidden)
    assert len(set(re.findall(r"vs_[A-Za-z0-9_-]{43}", rotated.text)) - set(secret)) == 1
    revoked = await operator.client.post("/access/keys/revoke", data=hidden)
    assert (revoked.status_code, revoked.headers["location"]) == (303, "/access/keys?revoked=true")
    again = await operator.client.post("/access/keys/revoke", data=hidden)
    assert again.status_code == 404
    for wrong in ({"name": ""}, {"name": "a", "expires_days": "-1"}, {"name": "a", "project_id": "x"}):
        assert (await operator.client.post("/access/keys", data=hidden | wrong)).status_code == 422, wrong


async def test_projects_and_domains_are_changed(api: ApiRig, operator: Visitor) -> None:
    page = await operator.get("/access/projects")
    await operator.post(page, "/access/projects", name="shop")
    taken = await operator.post(page, "/access/projects", expect=409, name="shop")
    assert "There is a project shop" in text(taken.text) or "there is a project shop" in text(taken.text)
    async with api.ledger.read() as connection:
        shop = await projects.find(connection, name="shop")
    assert shop is not None
    hidden = forms(page)["/access/projects"]
    renamed = await operator.client.post(
        "/access/projects/rename", data=hidden | {"project_id": str(shop.id), "name": "store"}
    )
    assert renamed.status_code == 303
    access = await operator.get("/access")
    await operator.post(access, "/access/domains", name="Store.Example.com", project_id=str(shop.id))
    assert "store.example.com" in await operator.get("/access")
    await operator.post(
        access, "/access/domains", expect=409, name="store.example.com", project_id=str(DEFAULT_PROJECT)
    )
    await operator.post(access, "/access/domains", expect=422, name="not a domain")
    removed = await operator.client.post("/access/domains/remove", data=hidden | {"name": "store.example.com"})
    assert removed.status_code == 303
    closed = await operator.client.post("/access/projects/close", data=hidden | {"project_id": str(shop.id)})
    assert closed.status_code == 303
    default = await operator.client.post("/access/projects/close", data=hidden | {"project_id": str(DEFAULT_PROJECT)})
    assert default.status_code == 409


async def test_the_audit_is_listed_with_filters(api: ApiRig, operator: Visitor) -> None:
    await operator.post(await operator.get("/access/projects"), "/access/projects", name="shop")
    everything = text(await operator.get("/access/audit"))
    assert "POST /access/projects" in everything
    assert "POST /sign-in" in everything
    nothing = "/access/audit?project_id=&actor=&since=2990-01-01T00:00&until="
    assert "no such entries" in await operator.get(nothing)
    assert "POST /sign-in" in await operator.get(f"/access/audit?project_id={DEFAULT_PROJECT}&since=2020-01-01T00:00")
    assert "no such entries" in await operator.get("/access/audit?actor=someone")
    await operator.get("/access/audit?since=never", 404)


async def test_the_state_of_a_domain_is_shown(api: ApiRig, operator: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(_dns: Dns, _setup: Setup) -> list[Finding]:
        return [Finding("DMARC", Verdict.WRONG, "there is no record", "publish one")]

    monkeypatch.setattr(domain_checks, "examine_domain", found)
    async with api.ledger.write() as connection:
        await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
    assert "Check example.com" in text(await operator.get("/access"))
    checked = text(await operator.get("/access/domains/example.com"))
    assert "Wrong" in checked
    assert "there is no record publish one" in checked
    assert "1 problem" in text(await operator.get("/access"))
    await operator.get("/access/domains/elsewhere.example", 404)
    reader = await a_reader(api)
    await reader.get("/access/domains/example.com", 404)


async def test_who_is_no_operator_sees_and_changes_nothing_of_it(api: ApiRig, operator: Visitor) -> None:
    reader = await a_reader(api)
    access = await reader.get("/access")
    assert "/access/keys" not in access
    assert "/access/domains" not in access
    hidden = forms(access)["/access/end-session"]
    for path in ("/access/keys", "/access/projects", "/access/audit"):
        await reader.get(path, 403)
    for path in (
        "/access/keys",
        "/access/keys/revoke",
        "/access/projects",
        "/access/domains",
        "/access/domains/remove",
    ):
        assert (await reader.client.post(path, data=hidden | {"name": "mine"})).status_code == 403, path


async def test_streams_of_the_page_count_under_the_limit(api: ApiRig, operator: Visitor) -> None:
    campaign = await api.create(1)
    paths = ("/live/campaigns", f"/campaigns/{campaign}/live", "/services/live")
    async with api.ledger.read() as connection:
        project = await projects.find(connection, project_id=DEFAULT_PROJECT)
    assert project is not None
    async with api.ledger.write() as connection:
        await projects.change(connection, project, {"open_streams": 0})
    for path in paths:
        answer = await operator.client.get(path, headers={"Accept": "text/event-stream"})
        assert answer.status_code == 429, path
        assert answer.headers["retry-after"]


async def test_operators_list_the_batches_of_all_projects(api: ApiRig) -> None:
    assert (await api.get("/v1/batches", project_id=str(DEFAULT_PROJECT)))["data"] == []
    await api.get("/v1/batches", 422, project_id="mine")
