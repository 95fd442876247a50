"""A key of one project learns nothing of another's data and changes none of it, on any route."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select
from sqlmodel import SQLModel

from services.api.rest import mount
from services.api.rest.auth import KeyRoute
from services.api.web.scopes import SCOPES
from shared.ledger import domains, keys, projects
from shared.ledger.keys import NewKey
from shared.scopes import EVERY_SCOPE, Scope
from tests.support.api import NDJSON, ApiRig, api_on
from tests.support.visitor import Visitor

BODIES: dict[str, Any] = {
    "PATCH /v1/campaigns/{campaign_id}": {"name": "taken over"},
    "POST /v1/campaigns/{campaign_id}/resolve-unknown": {"as": "sent"},
    "POST /v1/campaigns/{campaign_id}/test": {"recipients": [{"email": "eve@example.test"}]},
    "POST /v1/campaigns/{campaign_id}/preview": {"email": "secret@victim.test"},
}
ENDLESS = "/v1/events/stream"
EXPECTED = {404, 422}
"""What every route answers about something of another project: it is not there."""


class Rig:
    """The victim's campaign with one import and one recipient, its webhook, and the key of another project."""

    def __init__(self, api: ApiRig, campaign: str, import_id: int, webhook: str, intruder: str) -> None:
        self.api = api
        self.campaign = campaign
        self.import_id = import_id
        self.webhook = webhook
        self.intruder = intruder

    def path(self, template: str) -> str:
        ids = {
            "campaign_id": self.campaign,
            "import_id": self.import_id,
            "webhook_id": self.webhook,
            "project_id": UUID(int=1),
            "key_id": UUID(int=1),
        }
        names = {"name": "victim.test", "domain": "victim.test", "scope": "project", "session_id": "0"}
        return template.format(**ids, **names)


@pytest.fixture
async def rig(database_url: str) -> AsyncIterator[Rig]:
    async with api_on(database_url) as api:
        campaign = await api.create(name="secret campaign")
        report = await api.load(campaign, '{"email": "secret@victim.test"}\n', NDJSON)
        webhook = await api.request("POST", "/v1/webhooks", 201, json={"url": "https://victim.test/"})
        await api.post("/v1/suppressions", {"email": "hidden@victim.test"}, 200)
        async with api.ledger.write() as connection:
            other = await projects.create(connection, "other")
            owner = (await keys.list_keys(connection))[0].project_id
            await domains.add(connection, "victim.test", owner, "operator")
            wanted = NewKey("intruder", other.id, EVERY_SCOPE - {Scope.OPERATOR})
            _, secret = await keys.create(connection, wanted)
        yield Rig(api, campaign, report["id"], webhook["id"], secret)


async def ledger_as_text(api: ApiRig) -> str:
    """What must not change."""
    async with api.ledger.read() as connection:
        tables = [
            SQLModel.metadata.tables[name] for name in ("campaign", "recipient", "suppression", "import", "rate_limit")
        ]
        found = [(await connection.execute(select(table))).all() for table in tables]
        owned = await domains.list_domains(connection)
    return str((found, owned))


def routes() -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for part in mount.PARTS
        for route in part.router.routes
        if isinstance(route, APIRoute) and isinstance(route, KeyRoute)
        for method in route.methods or ()
    ]


async def test_no_route_gives_or_changes_what_belongs_to_another_project(rig: Rig) -> None:
    api = rig.api
    api.client.headers["Authorization"] = f"Bearer {rig.intruder}"
    before = await ledger_as_text(api)
    for method, template in routes():
        needed = SCOPES[f"{method} {template}"]
        is_open = template.startswith("/v1/campaigns") and "{" not in template
        if template == ENDLESS or (method == "POST" and is_open):
            continue  # the second creates one of the intruder's own
        body = BODIES.get(f"{method} {template}", {})
        path = rig.path(template)
        options: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": body}
        if template.endswith("/recipients") and method == "POST":
            options = {"content": '{"email": "eve@example.test"}\n', "headers": NDJSON}
        answer = await api.client.request(method, path, **options)
        if needed is Scope.OPERATOR:
            assert answer.status_code == 403, f"{method} {path}: {answer.status_code}"
        elif "{campaign_id}" in template or "{webhook_id}" in template:
            assert answer.status_code in EXPECTED, f"{method} {path}: {answer.status_code} {answer.text}"
        _shows_nothing(answer, f"{method} {path}")
    assert await ledger_as_text(api) == before


def _shows_nothing(answer: httpx.Response, what: str) -> None:
    assert answer.status_code < 500, f"{what}: {answer.text}"
    if answer.is_success:
        assert "victim.test" not in answer.text or "/check" in what, f"{what}: {answer.text}"
        assert "secret" not in answer.text, f"{what}: {answer.text}"


IN_OWN_PROJECT = ("POST /sign-out", "POST /campaigns", "POST /suppressions", "POST /suppressions/erase")
"""Routes of the page that name nothing of another project, so they are not refused."""


async def test_no_page_shows_or_changes_what_belongs_to_another_project(rig: Rig) -> None:
    visitor = Visitor.of(rig.api)
    await visitor.sign_in(rig.intruder)
    before = await ledger_as_text(rig.api)
    form = await visitor.get("/suppressions")
    for name, needed in SCOPES.items():
        method, _, template = name.partition(" ")
        if template.startswith("/v1") or name in IN_OWN_PROJECT:
            continue
        if "live" in template and "{" not in template:
            continue  # an endless stream of the visitor's own
        path = template.format(campaign_id=rig.campaign, action="pause", name="victim.test", webhook_id=rig.webhook)
        if method == "GET":
            answer = await visitor.client.get(path)
            assert "secret" not in answer.text, path
            assert "hidden@victim.test" not in answer.text, path
            if "{" in template and "live" not in template:
                assert answer.status_code == 404, f"{path}: {answer.status_code}"
        else:
            token = form.split('name="csrf" value="')[1].split('"')[0]
            data = {"csrf": token, "emails": "", "email": "hidden@victim.test", "recipients": "eve@example.test"}
            answer = await visitor.client.post(path, data=data)
            refused = (403,) if needed is Scope.OPERATOR else (404, 422)
            assert answer.status_code in refused, f"{path}: {answer.status_code}"
        if needed is Scope.OPERATOR:
            assert answer.status_code == 403, path
    assert await ledger_as_text(rig.api) == before


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_key_of_each_scope_passes_exactly_the_routes_of_that_scope(rig: Rig, scope: Scope) -> None:
    api = rig.api
    async with api.ledger.write() as connection:
        owner = (await keys.list_keys(connection))[0].project_id
        _, secret = await keys.create(connection, NewKey("one", owner, frozenset({scope})))
    api.client.headers["Authorization"] = f"Bearer {secret}"
    nothing = str(UUID(int=2))
    for method, template in routes():
        if "events" in template or template in ("/v1/queues",):
            continue  # a stream, and the broker, which is away
        ids = dict.fromkeys(("campaign_id", "project_id", "key_id", "webhook_id"), nothing)
        path = template.format(**ids, import_id=1, session_id="0", name="a", domain="a", scope="x")
        options: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": {"x": 1}}
        answer = await api.client.request(method, path, **options)
        needed = SCOPES[f"{method} {template}"]
        is_refused = answer.status_code == 403
        assert is_refused == (needed not in (None, scope)), f"{scope} {method} {path}: {answer.status_code}"
        assert answer.status_code < 500, f"{method} {path}: {answer.text}"
