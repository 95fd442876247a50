"""The API as an object in the test process: a real ledger, and HTTP without a socket."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import httpx
from fastapi import FastAPI

from services.api.context import Api
from services.api.main import create_app
from services.api.metrics import ApiMetrics
from services.api.shapes.campaigns import SendWarningOut
from services.api.usecases.actions import SendSettings
from shared.health import Health
from shared.ledger.database import Ledger
from shared.ledger.keys import create_key
from shared.ledger.models import DEFAULT_PROJECT
from shared.metrics import Metrics
from shared.relay_groups import RelayGroups
from shared.settings import ApiSettings, load
from tests.support.ledger import RecordedBus

SECRET_KEY = "not a secret but long enough to be one"
NDJSON = {"Content-Type": "application/x-ndjson"}
CSV = {"Content-Type": "text/csv"}


async def no_warnings(_from_domain: str, _envelope_domain: str) -> list[SendWarningOut]:
    return []


SEND_SETTINGS = SendSettings(3600.0, RelayGroups(), no_warnings)
"""For `actions.send` without an HTTP request."""


@dataclass
class ApiRig:
    """The app, its parts, and a client with a key."""

    app: FastAPI
    api: Api
    bus: RecordedBus  # keeps the events
    metrics: Metrics
    client: httpx.AsyncClient

    @classmethod
    def on(cls, ledger: Ledger, **settings: Any) -> Self:
        bus = RecordedBus()
        metrics = Metrics("api")
        given = {"secret_key": SECRET_KEY, "amqp_url": "amqp://127.0.0.1:1/", **settings}
        api = Api(load(ApiSettings, **given), ledger, ApiMetrics(metrics.registry), bus.publish)
        app = create_app(api, Health(metrics.registry))
        # An unforeseen error is a 500 here too, as it is behind a socket.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return cls(app, api, bus, metrics, httpx.AsyncClient(transport=transport, base_url="http://api.test"))

    @property
    def ledger(self) -> Ledger:
        return self.api.ledger

    async def key(self, project_id: UUID = DEFAULT_PROJECT) -> str:
        async with self.ledger.write() as connection:
            return await create_key(connection, "test", project_id)

    async def request(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        """The JSON of an answer that must have this status."""
        answer = await self.client.request(method, path, **options)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        if expect >= 400:
            assert answer.headers["content-type"] == "application/problem+json", answer.headers
            assert answer.json()["status"] == expect
        return answer.json() if answer.content else None

    async def get(self, path: str, expect: int = 200, **params: Any) -> Any:
        return await self.request("GET", path, expect, params=params)

    async def post(
        self, path: str, body: object = None, expect: int = 202, headers: Mapping[str, str] | None = None
    ) -> Any:
        return await self.request("POST", path, expect, json={} if body is None else body, headers=headers)

    async def create(self, recipients: int | Iterable[str] = 0, **fields: Any) -> str:
        """A draft; returns its id."""
        emails = [f"person-{n}@example.test" for n in range(recipients)] if isinstance(recipients, int) else recipients
        body = {**campaign_body(**fields), "recipients": [{"email": email} for email in emails]}
        campaign: str = (await self.post("/v1/campaigns", body, 201))["id"]
        return campaign

    async def load(self, campaign: str, content: str | bytes, media: Mapping[str, str], expect: int = 201) -> Any:
        """Imports a list; returns the report, or the problem."""
        path = f"/v1/campaigns/{campaign}/recipients"
        return await self.request("POST", path, expect, content=content, headers=media)

    async def show(self, campaign: str) -> Any:
        return await self.get(f"/v1/campaigns/{campaign}")

    async def emails(self, campaign: str, **params: Any) -> list[str]:
        """Addresses as listed, page by page."""
        found: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await self.get(f"/v1/campaigns/{campaign}/recipients", **params, **cursor)
            found += [row["email"] for row in page["data"]]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    async def kinds(self, campaign: str) -> list[str]:
        """The kinds of the timeline's entries, in order."""
        return [entry["kind"] for entry in (await self.get(f"/v1/campaigns/{campaign}/timeline"))["data"]]

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"vashsender_{name}", labels) or 0.0


@asynccontextmanager
async def api_on(database_url: str, **settings: Any) -> AsyncIterator[ApiRig]:
    """An API with a key of the default project."""
    ledger = Ledger(database_url, pool_size=8)
    rig = ApiRig.on(ledger, **settings)
    try:
        async with rig.client:
            rig.client.headers["Authorization"] = f"Bearer {await rig.key()}"
            yield rig
    finally:
        await ledger.close()


def campaign_body(**fields: Any) -> dict[str, Any]:
    """The smallest valid body of a campaign."""
    return {
        "name": "Spring news",
        "from": {"email": "news@example.test", "name": "News"},
        "subject": "News",
        "text": "Hello.",
        **fields,
    }


def ndjson(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
