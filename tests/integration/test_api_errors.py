"""Errors: wrong requests, wrong keys, an unavailable database, mistakes of ours."""

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import select

from cli.local.ports import free_port
from shared.ledger import keys
from shared.ledger.database import Ledger
from shared.ledger.models import ApiKey
from tests.support.api import ApiRig, api_on, campaign_body


@pytest.fixture
async def api(sqlite_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(sqlite_url, max_content_bytes=2000) as rig:
        yield rig


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer vs_wrong", "Basic dnM6eA==", f"Bearer vs_{'A' * 43}"])
async def test_without_a_valid_key_nothing_is_read(api: ApiRig, given: str | None) -> None:
    del api.client.headers["Authorization"]
    headers = {} if given is None else {"Authorization": given}
    answer = await api.client.post("/v1/campaigns", content=b"{ not even JSON", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_revoked_key_is_refused(database_url: str) -> None:
    async with api_on(database_url) as api:
        async with api.ledger.write() as connection:
            secret = await keys.create_key(connection, "second")
            [first, second] = await keys.list_keys(connection)
            assert (first.name, second.name, second.revoked_at) == ("test", "second", None)
            assert await keys.project_of(connection, secret) == second.project_id
            assert await keys.revoke_key(connection, second.id)
            assert not await keys.revoke_key(connection, second.id)
        api.client.headers["Authorization"] = f"Bearer {secret}"
        problem = await api.get("/v1/campaigns", 401)
        assert "revoked" in problem["detail"]


async def test_the_ledger_keeps_only_a_digest_of_a_key(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as api:
        secret = await api.key()
        async with api.ledger.read() as connection:
            rows = (await connection.execute(select(ApiKey.__table__))).all()  # type: ignore[attr-defined]
    assert len(secret) == 46
    assert secret not in str(rows)


async def test_unknown_paths_and_methods_are_problems(api: ApiRig) -> None:
    await api.get("/v1/nothing", 404)
    await api.get(f"/v1/campaigns/{uuid4()}", 404)
    await api.get("/v1/campaigns/17", 422)
    answer = await api.client.put("/v1/campaigns")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert "GET, POST" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [(b"{", 1, 2), (b'{\n "name": "x",\n "text" "y"}', 3, 9)],
)
async def test_malformed_json_says_where(api: ApiRig, content: bytes, line: int, column: int) -> None:
    headers = {"Content-Type": "application/json"}
    problem = await api.request("POST", "/v1/campaigns", 400, content=content, headers=headers)
    assert (problem["line"], problem["column"]) == (line, column)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"[" * 10, 400, "line 1, column 11: a value is expected here"),
        (b"9" * 1900, 422, "#: must be a JSON object, but it is a number"),
        (b'{"name":\n"\xff"}', 400, "The body is not UTF-8: line 2, byte 0xff."),
        ("{}".encode("utf-16-le")[:3], 400, "JSON"),
        (b"{'name': 1}", 400, "line 1, column 2: the name of a member is expected here, in double quotes"),
        (b"", 422, "#: is missing; send a JSON object"),
        (b"null", 422, "#: must be a JSON object, but it is null"),
    ],
)
async def test_what_is_no_json_object_is_refused_in_our_words(
    api: ApiRig, content: bytes, status: int, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    problem = await api.request("POST", "/v1/campaigns", status, content=content, headers=headers)
    assert words in problem["detail"]


@pytest.mark.parametrize("content", [b"[" * 50_000, b"9" * 5000], ids=["nested", "digits"])
async def test_json_that_python_cannot_hold_is_malformed(sqlite_url: str, content: bytes) -> None:
    async with api_on(sqlite_url) as api:
        headers = {"Content-Type": "application/json"}
        problem = await api.request("POST", "/v1/campaigns", 400, content=content, headers=headers)
    assert problem["type"].endswith(":malformed")
    assert "parsing" not in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "parameter", "words"),
    [
        ("GET", "/v1/campaigns?limit=x", "query limit", "must be a whole number"),
        ("GET", "/v1/campaigns?limit=0", "query limit", "must be at least 1"),
        ("GET", "/v1/campaigns?limit=1.5", "query limit", "must be a whole number"),
        ("GET", "/v1/campaigns?cursor=x", "query cursor", "must be an id as the API gives it"),
        ("GET", "/v1/campaigns?status=asleep", "query status", "must be 'draft', 'scheduled'"),
        ("GET", "/v1/campaigns?include_tests=maybe", "query include_tests", "must be true or false"),
        ("GET", "/v1/campaigns/17", "path campaign_id", "must be an id as the API gives it"),
        ("GET", "/v1/campaigns/{id}/imports/x", "path import_id", "must be a whole number"),
        ("GET", "/v1/campaigns/{id}/recipients?status=x", "query status", "must be 'pending'"),
        ("GET", "/v1/suppressions?limit=1001", "query limit", "must be at most 1000"),
        ("POST", "/v1/campaigns", "header Idempotency-Key", "must be visible ASCII characters without spaces"),
    ],
)
async def test_a_wrong_parameter_is_named_with_what_it_should_be(
    api: ApiRig, method: str, path: str, parameter: str, words: str
) -> None:
    headers = {"Idempotency-Key": "two words"} if method == "POST" else {}
    body = campaign_body() if method == "POST" else None
    problem = await api.request(method, path.replace("{id}", str(uuid4())), 422, json=body, headers=headers)
    [error] = problem["errors"]
    assert error["parameter"] == parameter
    assert words in error["detail"]
    assert problem["detail"].startswith(f"{parameter}: ")


async def test_lone_surrogates_are_refused_everywhere(api: ApiRig) -> None:
    for body in (
        campaign_body(name="\ud800"),
        campaign_body(text="\ud800"),
        campaign_body(**{"\ud800": 1}),
        campaign_body(recipients=[{"email": "a@example.test", "data": {"x": "\ud800"}}]),
        campaign_body(recipients=[{"email": "a@example.test", "data": {"\ud800": "x"}}]),
    ):
        await api.request(
            "POST", "/v1/campaigns", 422, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )


async def test_numbers_beyond_the_database_are_refused(api: ApiRig) -> None:
    for number in (10**30, float("nan"), float("inf")):
        body = campaign_body(recipients=[{"email": "a@example.test", "data": {"x": number}}])
        await api.request(
            "POST", "/v1/campaigns", 422, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    await api.get("/v1/batches", 422, cursor=2**63)


async def test_bodies_that_are_not_json_or_too_large(api: ApiRig) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}):
        body = json.dumps(campaign_body()).encode()
        await api.request("POST", "/v1/campaigns", 415, content=body, headers=headers)
    problem = await api.post("/v1/campaigns", campaign_body(text="x" * 2000), 413)
    assert problem["limit_bytes"] == 2000


async def test_a_body_that_no_one_reads_is_bounded_too(api: ApiRig) -> None:
    async def chunked() -> AsyncIterator[bytes]:
        yield b"x" * 2001

    for body in (b"x" * 2001, chunked()):
        await api.request("GET", "/v1/campaigns", 413, content=body)


async def test_a_database_that_is_away_is_a_503() -> None:
    ledger = Ledger(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nothing")
    rig = ApiRig.on(ledger)
    rig.client.headers["Authorization"] = f"Bearer vs_{'A' * 43}"
    async with rig.client:
        answer = await rig.client.get("/v1/campaigns")
    await ledger.close()
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert int(answer.headers["retry-after"]) > 0


async def test_an_unforeseen_error_is_a_problem_too(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("services.api.usecases.summaries.show_alone", broken)
    problem = await api.get(f"/v1/campaigns/{uuid4()}", 500)
    assert "secret" not in json.dumps(problem)
    assert api.value("http_requests_total", route="/v1/campaigns/{campaign_id}", method="GET", status="500") == 1


async def test_requests_are_counted_by_route_and_never_by_path(api: ApiRig) -> None:
    for number in range(3):
        await api.client.get(f"/v1/campaigns/{uuid4()}")
        await api.client.get(f"/nowhere/{number}")
        await api.client.request("BREW", "/v1/campaigns")
    labels = {"route": "/v1/campaigns/{campaign_id}", "method": "GET"}
    assert api.value("http_requests_total", **labels, status="404") == 3
    assert api.value("http_request_seconds_count", **labels) == 3
    assert api.value("http_requests_total", route="unmatched", method="GET", status="404") == 3
    text = (await api.client.get("/metrics")).text
    assert "nowhere" not in text
    assert "BREW" not in text
