"""Broker, database and relays behind a private authority: everything works, and a wrong certificate is refused."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cli.local.broker_files import ADMIN
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from cli.relays import try_relay
from services.sender.smtp.config import Tls
from shared.settings import CommonSettings, load
from tests.support.processes import ServiceProcess
from tests.support.run import TestRun
from tests.support.smtp.certificates import Authority
from tests.support.smtp.peers import PASSWORD, USER, aiosmtpd_relay
from tests.support.system import installation
from tests.support.tls import at, switch_tls_on, tls_broker

GOOD_HOST, WRONG_HOST = "localhost", "127.0.0.1"
"""Certificates name the first only; both lead to this machine."""

RELAY_USER = f"{USER}:{PASSWORD.replace(' ', '%20')}"


@dataclass(frozen=True)
class Servers:
    """Addresses with the good host; `secrets` must never be shown."""

    authority: Authority
    amqp_url: str
    admin_url: str
    database_url: str
    postgres: PrivatePostgres
    secrets: tuple[str, ...]

    def settings(self, **others: str) -> dict[str, str]:
        values = {
            "ca_file": str(self.authority.ca_file),
            "amqp_url": self.amqp_url,
            "database_url": self.database_url,
            **others,
        }
        return {f"VASHSENDER_{name.upper()}": value for name, value in values.items()}


@pytest.fixture
def servers(run: TestRun, own_postgres: PrivatePostgres, tmp_path: Path) -> Iterator[Servers]:
    authority = Authority(tmp_path)
    certificate = authority.certificate(GOOD_HOST)
    switch_tls_on(own_postgres, certificate)
    database_url = at(own_postgres.create_database("ledger"), GOOD_HOST, scheme="postgresql")
    with tls_broker(run, f"tls-{tmp_path.name}", certificate, authority.ca_file) as (broker, port):
        yield Servers(
            authority,
            at(broker.amqp_url(), GOOD_HOST, port, "amqps"),
            at(broker.amqp_url(ADMIN), GOOD_HOST, port, "amqps"),
            database_url,
            own_postgres,
            (broker.password("services"), broker.password(ADMIN), own_postgres.password, PASSWORD),
        )


async def test_a_campaign_through_tls_and_nobody_is_trusted_without_a_reason(servers: Servers, tmp_path: Path) -> None:
    command(servers, "db", "upgrade")
    command(servers, "topology", "declare", VASHSENDER_AMQP_ADMIN_URL=servers.admin_url)
    await _refusals(servers, tmp_path)
    await _campaign(servers, tmp_path)


async def _campaign(servers: Servers, tmp_path: Path) -> None:
    settings = load(
        CommonSettings,
        ca_file=servers.authority.ca_file,
        amqp_url=servers.admin_url,
        database_url=servers.database_url,
    )
    certificate = servers.authority.certificate(GOOD_HOST)
    with aiosmtpd_relay(Tls.STARTTLS, certificate) as (start_port, started):
        async with installation(
            tmp_path, settings.ledger_url, settings.broker_admin_url, "", None, ca_file=str(servers.authority.ca_file)
        ) as system:
            system.settings |= {"amqp_url": servers.amqp_url, "database_url": servers.database_url}
            system.settings["relays"] = f"smtp://{RELAY_USER}@{GOOD_HOST}:{start_port}"
            await system.start(senders=1)
            campaign = await system.create(20)
            await system.send(campaign)
            assert (await system.wait_closed(campaign))["counts"]["sent"] == len(list(started.iterdir())) == 20
            encrypted = servers.postgres.query(
                "SELECT bool_and(ssl), count(DISTINCT application_name) "
                "FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = 'ledger'"
            )
            assert encrypted == "t|4", "api, dispatcher, sender and watchdog, each encrypted"
            assert await system.processes["watchdog"].metric('vashsender_queue_consumers{queue="email"}') == 1
            with aiosmtpd_relay(Tls.IMPLICIT, certificate) as (implicit_port, kept):
                await system.processes["sender-1"].stop()
                url = f"smtps://{RELAY_USER}@{GOOD_HOST}:{implicit_port}"
                await system.launch("sender", "sender-1", relays=url).wait_ready()
                again = await system.create(5)
                await system.send(again)
                assert (await system.wait_closed(again))["counts"]["sent"] == len(list(kept.iterdir())) == 5
                assert (await try_relay(url, servers.authority.ca_file)).ok
                other = Authority(tmp_path, "other").ca_file
                for refused in (await try_relay(url), await try_relay(url, other)):
                    assert "certificate verify failed" in refused.found.lower()
            said = "".join(process.log_text() for process in system.processes.values())
            assert not [secret for secret in servers.secrets if secret in said]


async def _refusals(servers: Servers, tmp_path: Path) -> None:
    stranger = str(Authority(tmp_path, "stranger").ca_file)
    wrong_database, wrong_broker = at(servers.database_url, WRONG_HOST), at(servers.amqp_url, WRONG_HOST)
    strict, halfway = f"{servers.database_url}?sslmode=verify-full", f"{servers.database_url}?sslmode=prefer"
    blind = f"{servers.amqp_url}?no_verify_ssl=1"
    for verb in (("db", "check"), ("topology", "check")):
        refused(servers, verb, 69, "certificate verify failed", VASHSENDER_CA_FILE=stranger)
        refused(servers, verb, 69, "verify failed", VASHSENDER_CA_FILE="", VASHSENDER_DATABASE_URL=strict)
    refused(servers, ("db", "check"), 69, WRONG_HOST, VASHSENDER_DATABASE_URL=wrong_database)
    refused(servers, ("topology", "check"), 69, WRONG_HOST, VASHSENDER_AMQP_URL=wrong_broker)
    refused(servers, ("db", "check"), 78, "may fall back", VASHSENDER_DATABASE_URL=halfway)
    refused(servers, ("topology", "check"), 78, "no_verify_ssl", VASHSENDER_AMQP_URL=blind)
    refused(servers, ("db", "check"), 78, "VASHSENDER_CA_FILE", VASHSENDER_CA_FILE=str(tmp_path / "nothing.pem"))
    for wrong in (
        {"ca_file": stranger},
        {"database_url": f"{wrong_database}?sslmode=verify-full", "amqp_url": wrong_broker},
    ):
        await _not_ready(servers, tmp_path, wrong)


async def _not_ready(servers: Servers, tmp_path: Path, wrong: dict[str, str]) -> None:
    """A service says why, and goes on trying."""
    process = ServiceProcess("watchdog", servers.settings(**wrong), free_port(), tmp_path, f"refused-{len(wrong)}")
    process.launch()
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
            checks: dict[str, str] = {}
            while not all("certificate" in checks.get(name, "") for name in ("database", "broker")):
                assert process.is_running, process.last_words()
                try:
                    checks = (await client.get(f"{process.http_url}/health/ready")).json()["checks"]
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        assert not [secret for secret in servers.secrets if secret in process.log_text()]
    finally:
        process.kill()


def command(servers: Servers, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`vashsender ...` with the good settings, but for those given; it must succeed."""
    done = attempt(servers, words, settings)
    assert done.returncode == 0, done.stderr
    return done


def refused(servers: Servers, words: Sequence[str], exit_code: int, why: str, **settings: str) -> None:
    """The verb ends with this exit code and one line that says why, without a password."""
    done = attempt(servers, words, settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (exit_code, 1), done.stderr
    assert why in done.stderr
    assert not [secret for secret in servers.secrets if secret in done.stderr]


def attempt(servers: Servers, words: Sequence[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VASHSENDER_")}
    chosen = {name: value for name, value in {**servers.settings(), **settings}.items() if value}
    return subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", *words],
        env={**inherited, **chosen},
        cwd=servers.authority.ca_file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
