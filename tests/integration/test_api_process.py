"""The API as a process: a real port, a real broker, live events, SIGTERM, and a failed start."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.local.ports import free_port
from shared import topology
from shared.ledger.database import Ledger
from tests.support.api import NDJSON, campaign_body, ndjson
from tests.support.broker import BrokerVhost
from tests.support.processes import ServiceProcess
from tests.support.system import new_key
from tests.support.waiting import until

ServiceFactory = Callable[..., ServiceProcess]


def settings(folder: Path, database_url: str, amqp_url: str, **more: str) -> dict[str, str]:
    given = {"database_url": database_url, "amqp_url": amqp_url, "var_dir": str(folder), **more}
    return {f"VASHSENDER_{name.upper()}": value for name, value in given.items()}


@pytest.fixture
async def client(
    tmp_path: Path, database_url: str, broker_vhost: BrokerVhost, service_process: ServiceFactory
) -> AsyncIterator[tuple[ServiceProcess, httpx.AsyncClient]]:
    """A process that is ready, on a broker account without the right to configure, and its client."""
    await topology.declare(broker_vhost.admin_url)
    process = service_process("api", settings(tmp_path, database_url, broker_vhost.services_url))
    await process.wait_ready()
    headers = {"Authorization": f"Bearer {await new_key(database_url)}"}
    async with httpx.AsyncClient(
        base_url=process.http_url, headers=headers, timeout=30, trust_env=False
    ) as http_client:
        yield process, http_client


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, Any]]:
    """Server-sent events by name, with their data."""
    name = ""
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


async def test_a_campaign_over_a_real_port(client: tuple[ServiceProcess, httpx.AsyncClient]) -> None:
    process, http = client
    campaign = (await http.post("/v1/campaigns", json=campaign_body())).json()["id"]
    path = f"/v1/campaigns/{campaign}"

    async def body() -> AsyncIterator[bytes]:
        for first in range(0, 3000, 100):
            yield ndjson({"email": f"p{n}@example.test"} for n in range(first, first + 100)).encode()

    report = await http.post(f"{path}/recipients", content=body(), headers=NDJSON)
    assert report.json()["accepted"] == 3000
    async with http.stream("GET", f"{path}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = events_of(stream.aiter_lines())
        name, data = await anext(events)
        assert (name, data["status"], data["counts"]["total"]) == ("progress", "draft", 3000)
        assert (await http.post(f"{path}/send", json={})).status_code == 202
        async for _, data in events:
            if data["status"] == "queued":
                break
        # The stream of a campaign that is not closed ends with the process, and does not hold it up.
        await process.stop_cleanly(timeout_seconds=10)
        assert [event async for event in events] == []


async def test_queues_are_seen_without_the_right_to_configure(
    client: tuple[ServiceProcess, httpx.AsyncClient],
) -> None:
    _, http = client
    campaign = (await http.post("/v1/campaigns", json=campaign_body(recipients=[{"email": "a@example.test"}]))).json()[
        "id"
    ]
    await http.post(f"/v1/campaigns/{campaign}/send", json={})
    async with asyncio.timeout(20):
        while True:
            queues = {queue["name"]: queue for queue in (await http.get("/v1/queues")).json()["data"]}
            if queues["campaigns"]["messages"]:
                break
    assert set(queues) == {"campaigns", "email", "default", "heartbeats", "dead"}
    assert all(queue["exists"] for queue in queues.values())
    assert queues["campaigns"] == {"name": "campaigns", "exists": True, "messages": 1, "consumers": 0}


async def test_it_reports_that_it_is_alive_and_that_it_stops(
    client: tuple[ServiceProcess, httpx.AsyncClient], database_url: str
) -> None:
    process, http = client
    async with asyncio.timeout(20):
        while not (services := (await http.get("/v1/services")).json()["data"]):
            pass
    [me] = services
    assert (me["service"], me["pid"], me["alive"], me["draining"]) == ("api", process.pid, True, False)
    await process.stop_cleanly()
    ledger = Ledger(database_url, pool_size=1)
    async with ledger.read() as connection:
        drained = (await connection.exec_driver_sql("SELECT draining FROM service_instance")).scalar_one()
    await ledger.close()
    assert drained


async def test_without_a_broker_it_is_ready_accepts_and_says_what_is_wrong(
    tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    nowhere = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    process = service_process("api", settings(tmp_path, sqlite_url, nowhere))
    await process.wait_health("/health/ready", 200)
    headers = {"Authorization": f"Bearer {await new_key(sqlite_url)}"}
    async with httpx.AsyncClient(base_url=process.http_url, headers=headers, trust_env=False) as http:
        report = (await http.get("/health/ready")).json()
        assert report["status"] == "degraded"
        assert report["checks"]["database"] == "ok"
        assert report["checks"]["broker"] != "ok"
        body = campaign_body(recipients=[{"email": "a@example.test"}])
        campaign = (await http.post("/v1/campaigns", json=body)).json()["id"]
        assert (await http.post(f"/v1/campaigns/{campaign}/send", json={})).status_code == 202
        answer = await http.get("/v1/queues")
        assert (answer.status_code, answer.json()["title"]) == (503, "Not available now")


async def test_a_taken_port_is_named(tmp_path: Path, sqlite_url: str, service_process: ServiceFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = service_process(
            "api", settings(tmp_path, sqlite_url, "amqp://guest:guest@127.0.0.1:1/"), http_port=port
        )
        assert await process.wait_ended() == 78
    assert f"port {port} is taken" in process.log_text()


async def test_an_upload_that_is_cut_off_leaves_nothing(
    client: tuple[ServiceProcess, httpx.AsyncClient],
) -> None:
    _, http = client
    campaign = (await http.post("/v1/campaigns", json=campaign_body())).json()["id"]
    path = f"/v1/campaigns/{campaign}"

    async def cut_off() -> AsyncIterator[bytes]:
        yield people(6000)
        await import_state(http, path, "open")
        raise ConnectionError("the cable was pulled")

    with pytest.raises(ConnectionError):
        await http.post(f"{path}/recipients", content=cut_off(), headers=NDJSON)
    shown = await import_state(http, path, "failed")
    assert "cut off" in shown["error"]
    assert (await http.get(f"{path}/recipients")).json()["data"] == []


async def test_an_upload_does_not_delay_the_stop_and_is_undone_by_the_next_process(
    client: tuple[ServiceProcess, httpx.AsyncClient],
) -> None:
    process, http = client
    campaign = (await http.post("/v1/campaigns", json=campaign_body())).json()["id"]
    path = f"/v1/campaigns/{campaign}"
    async with endless_upload(http, path):
        await process.stop_cleanly(timeout_seconds=15)
    process.launch()
    await process.wait_ready()
    shown = await import_state(http, path, "failed")
    assert "stopped" in shown["error"]


async def test_uploads_that_go_on_while_the_process_stops_are_all_undone(
    client: tuple[ServiceProcess, httpx.AsyncClient],
) -> None:
    """Some are refused while others are being given up."""
    process, http = client
    campaigns = [(await http.post("/v1/campaigns", json=campaign_body())).json()["id"] for _ in range(10)]
    paths = [f"/v1/campaigns/{campaign}" for campaign in campaigns]
    async with AsyncExitStack() as uploads:
        for path in paths:
            await uploads.enter_async_context(endless_upload(http, path, goes_on=True))
        await process.stop_cleanly(timeout_seconds=15)
    process.launch()
    await process.wait_ready()
    for path in paths:
        assert "stopped" in (await import_state(http, path, "failed"))["error"]
        assert (await http.get(f"{path}/recipients")).json()["data"] == []


async def test_an_import_of_a_killed_process_is_undone_by_the_next_one(
    client: tuple[ServiceProcess, httpx.AsyncClient], ledger: Ledger
) -> None:
    process, http = client
    campaign = (await http.post("/v1/campaigns", json=campaign_body())).json()["id"]
    path = f"/v1/campaigns/{campaign}"
    async with endless_upload(http, path):
        await asyncio.to_thread(process.kill)
    async with ledger.write() as connection:  # its lease of 20 s runs out
        await connection.exec_driver_sql('UPDATE "import" SET lease_until = lease_until - 20')
    process.launch()
    await process.wait_ready()
    shown = await import_state(http, path, "failed")
    assert "died" in shown["error"]
    assert (await http.get(f"{path}/recipients")).json()["data"] == []


@asynccontextmanager
async def endless_upload(http: httpx.AsyncClient, path: str, *, goes_on: bool = False) -> AsyncIterator[None]:
    """An upload that is under way and never ends. `goes_on`: it brings more all the time."""
    opened = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield people(6000)
        await import_state(http, path, "open")
        opened.set()
        while goes_on:
            yield people(1)
            await asyncio.sleep(0)  # the other uploads
        await asyncio.Event().wait()

    upload = asyncio.create_task(http.post(f"{path}/recipients", content=endless(), headers=NDJSON))
    try:
        await opened.wait()
        yield
    finally:
        upload.cancel()
        await asyncio.wait([upload])


async def import_state(http: httpx.AsyncClient, path: str, state: str) -> dict[str, Any]:
    """The campaign's only import, once it is in this state."""
    found: list[dict[str, Any]] = []

    async def is_there() -> bool:
        imports = (await http.get(f"{path}/imports")).json()["data"]
        found.extend(shown for shown in imports if shown["state"] == state)
        return bool(found)

    await until(is_there, seconds=40)
    return found[0]


def people(number: int) -> bytes:
    return ndjson({"email": f"p{n}@example.test"} for n in range(number)).encode()
