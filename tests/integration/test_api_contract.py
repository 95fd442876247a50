"""The contract: it is valid OpenAPI, and the app keeps it for any request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis import APIOperation, Case
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from shared import topology
from tests.support.api import ApiRig, api_on, campaign_body
from tests.support.broker import BrokerVhost
from tests.support.dns import no_records
from tests.support.processes import ServiceProcess
from tests.support.system import new_key

# A mail is given as it is.
schemathesis.serializer.alias("message/rfc822", "application/octet-stream")

EXAMPLES = 6
ENDLESS = "/v1/campaigns/{campaign_id}/events"
ALWAYS_ENDLESS = "/v1/events/stream"


@pytest.fixture
async def api(sqlite_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(sqlite_url) as rig:
        yield rig


async def test_the_document_is_valid_openapi_and_needs_no_key(api: ApiRig) -> None:
    del api.client.headers["Authorization"]
    document = await api.get("/openapi.json")
    validate(document)
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert all("application/problem+json" in one["responses"]["default"]["content"] for one in operations)
    open_paths = {
        path for path, methods in document["paths"].items() if any("security" not in one for one in methods.values())
    }
    assert open_paths == {"/u/{token}", "/hooks/ses/{token}"}
    for pages in ("/docs", "/redoc"):
        await api.get(pages, 404)


async def test_examples_of_the_contract_work(api: ApiRig) -> None:
    """Requests copied from the document are accepted."""
    document = await api.get("/openapi.json")
    campaign = await api.create(1)
    path = "/v1/campaigns/{campaign_id}/recipients"
    for media, content in document["paths"][path]["post"]["requestBody"]["content"].items():
        example = content["example"]
        options: dict[str, Any] = {"json": example} if isinstance(example, dict) else {"content": example}
        await api.request("POST", path.format(campaign_id=campaign), 201, headers={"Content-Type": media}, **options)


@pytest.fixture
def dns() -> Iterator[str]:
    with no_records() as address:
        yield address


def test_the_app_keeps_the_contract(
    tmp_path: Path,
    database_url: str,
    broker_vhost: BrokerVhost,
    service_process: Callable[..., ServiceProcess],
    dns: str,
) -> None:
    """schemathesis sends valid and invalid requests to every operation; the answers must match the document."""
    asyncio.run(topology.declare(broker_vhost.admin_url))
    process = service_process(
        "api",
        {
            "VASHSENDER_DATABASE_URL": database_url,
            "VASHSENDER_AMQP_URL": broker_vhost.services_url,
            "VASHSENDER_VAR_DIR": str(tmp_path),
            "VASHSENDER_DNS_SERVERS": dns,
        },
    )
    asyncio.run(process.wait_ready())
    headers = {"Authorization": f"Bearer {asyncio.run(new_key(database_url))}"}
    with httpx.Client(base_url=process.http_url, headers=headers, trust_env=False) as client:
        body = campaign_body(recipients=[{"email": "ann@example.test"}])
        campaigns = [client.post("/v1/campaigns", json=body).json()["id"] for _ in range(2)]
    schema = schemathesis.openapi.from_url(f"{process.http_url}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        if result.ok().path == ALWAYS_ENDLESS:
            continue
        _throw_at(result.ok(), headers, campaigns)
    assert process.is_running
    assert "request.failed" not in process.log_text()


def _throw_at(operation: APIOperation[Any, Any, Any, Any], headers: dict[str, str], campaigns: list[str]) -> None:
    calls = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy())
    def throw(case: Case[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls % 2 and operation.path != ENDLESS and "campaign_id" in (case.path_parameters or {}):
            case.path_parameters["campaign_id"] = campaigns[calls % 4 // 2]
        response = case.call(headers=headers, timeout=20)
        # An address or a template that the schema lets through may still be none.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])

    throw()
