"""What each port of the API answers, and to which host."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cli.local.ports import free_port
from tests.support.processes import ServiceProcess
from tests.support.system import new_key

ServiceFactory = Callable[..., ServiceProcess]
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


async def started(
    service_process: ServiceFactory, folder: Path, database_url: str, **more: str
) -> tuple[ServiceProcess, httpx.AsyncClient]:
    given = {"database_url": database_url, "amqp_url": NOWHERE, "var_dir": str(folder), **more}
    process = service_process("api", {f"VASHSENDER_{name.upper()}": value for name, value in given.items()})
    await process.wait_health("/health/ready", 200)
    return process, httpx.AsyncClient(base_url=process.http_url, trust_env=False, timeout=30)


async def test_the_port_of_strangers_shows_no_metrics_and_no_reasons(
    tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    health_port = free_port()
    process, http = await started(service_process, tmp_path, sqlite_url, health_port=str(health_port))
    async with http, httpx.AsyncClient(base_url=f"http://127.0.0.1:{health_port}", trust_env=False) as machinery:
        assert (await http.get("/metrics")).status_code == 404
        assert (await http.get("/health/ready")).json() == {"status": "degraded"}
        assert (await http.get("/health/live")).json() == {"status": "ok"}
        assert (await http.get("/sign-in")).status_code == 200
        assert "vashsender_http_requests_total" in (await machinery.get("/metrics")).text
        assert (await machinery.get("/health/ready")).json()["checks"]["database"] == "ok"
        for path in ("/", "/sign-in", "/v1/campaigns", "/openapi.json"):
            assert (await machinery.get(path)).status_code == 404, path
    port = httpx.URL(process.http_url).port
    environment = {"VASHSENDER_HEALTH_PORT": str(health_port), "VASHSENDER_HTTP_PORT": str(port)}
    command = [sys.executable, "-m", "cli.probe"]
    asked = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=True
    )
    assert '"checks"' in asked.stdout


async def test_one_port_answers_everything_as_in_0_1_0(
    tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    _, http = await started(service_process, tmp_path, sqlite_url)
    async with http:
        assert "vashsender_http_requests_total" in (await http.get("/metrics")).text
        assert (await http.get("/health/ready")).json()["checks"]["database"] == "ok"


async def test_a_taken_health_port_is_named(tmp_path: Path, sqlite_url: str, service_process: ServiceFactory) -> None:
    first, http = await started(service_process, tmp_path, sqlite_url)
    await http.aclose()
    given = {"database_url": sqlite_url, "amqp_url": NOWHERE, "health_port": str(httpx.URL(first.http_url).port)}
    second = service_process("api", {f"VASHSENDER_{name.upper()}": value for name, value in given.items()})
    assert await second.wait_ended() == 78
    assert "set VASHSENDER_HEALTH_PORT" in second.log_text()


HOSTS = {
    "127.0.0.1:8700": True,
    "localhost": True,
    "LOCALHOST:1": True,
    "[::1]:8700": True,
    "mail.example.com": True,
    "mail.example.com.": True,
    "inside.example.com:443": True,
    "evil.example": False,
    "evil.example:8700": False,
    "127.0.0.1.evil.example": False,
    "mail.example.com.evil.example": False,
    "evil-localhost": False,
    "198.51.100.7": False,
    "0x7f000001": False,
    "": False,
}


async def test_a_foreign_name_that_resolves_to_this_machine_gets_nothing(
    tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    process, http = await started(
        service_process,
        tmp_path,
        sqlite_url,
        public_url="https://mail.example.com",
        allowed_hosts="inside.example.com",
        health_port=str(free_port()),
    )
    key = await new_key(sqlite_url)
    async with http:
        for host, allowed in HOSTS.items():
            for path in ("/sign-in", "/openapi.json", "/v1/campaigns"):
                answer = await http.get(path, headers={"Host": host})
                assert (answer.status_code != 421) == allowed, (host, path, answer.status_code)
        refused = await http.get("/", headers={"Host": "evil.example"})
        assert refused.headers["content-type"] == "application/problem+json"
        assert "VASHSENDER_ALLOWED_HOSTS" in refused.json()["detail"]
        foreign = {"Host": "old.example.com"}
        assert (await http.get(f"/u/{'x' * 56}", headers=foreign)).status_code == 404, "links outlive the public URL"
        assert (await http.get("/health/ready", headers=foreign)).status_code == 200
        known = {**foreign, "Authorization": f"Bearer {key}"}
        assert (await http.get("/v1/campaigns", headers=known)).status_code == 200, "programs may use any name"
        assert (await http.get("/v1/campaigns", headers={**foreign, "Authorization": "Basic x"})).status_code == 421
    assert process.is_running


@pytest.mark.parametrize("path", ["/u/../", "/u/..%2f", "/health/../sign-in", "//u/", "/U/"])
async def test_no_spelling_of_a_path_evades_the_check(
    path: str, tmp_path: Path, sqlite_url: str, service_process: ServiceFactory
) -> None:
    process, http = await started(service_process, tmp_path, sqlite_url)
    async with http:
        request = http.build_request("GET", "/", headers={"Host": "evil.example"})
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await http.send(request)
        assert answer.status_code in (307, 404, 421)
        assert "<form" not in answer.text
    assert process.is_running
