"""Broker, database and relays with a private authority: everything works, and a wrong certificate is refused."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cli.local.broker_files import ADMIN
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from cli.main import run as run_command
from cli.relays import RelayTry, try_relay
from shared.relays.config import Tls
from shared.relays.url import parse_relay
from shared.settings import CommonSettings, load
from tests.support.processes import ServiceProcess
from tests.support.run import TestRun
from tests.support.smtp.certificates import Authority
from tests.support.smtp.configs import SETTINGS
from tests.support.smtp.peers import PASSWORD, USER, aiosmtpd_relay
from tests.support.system import installation
from tests.support.tls import enable_tls, tls_broker, with_host

pytestmark = pytest.mark.more

GOOD_HOST, WRONG_HOST = "localhost", "127.0.0.1"
"""Certificates name only the first; both resolve to this machine."""

RELAY_USER = f"{USER}:{PASSWORD.replace(' ', '%20')}"


@dataclass(frozen=True)
class Servers:
    """URLs with the good host. No output may contain `secrets`."""

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
    enable_tls(own_postgres, certificate)
    database_url = with_host(own_postgres.create_database("ledger"), GOOD_HOST, scheme="postgresql")
    with tls_broker(run, f"tls-{tmp_path.name}", certificate, authority.ca_file) as (broker, port):
        yield Servers(
            authority,
            with_host(broker.amqp_url(), GOOD_HOST, port, "amqps"),
            with_host(broker.amqp_url(ADMIN), GOOD_HOST, port, "amqps"),
            database_url,
            own_postgres,
            (broker.password("services"), broker.password(ADMIN), own_postgres.password, PASSWORD),
        )


async def test_a_campaign_runs_over_tls_and_wrong_certificates_are_refused(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(servers, monkeypatch, capsys)
    assert (await command("db", "upgrade"))[0] == 0
    assert (await command("topology", "declare", amqp_admin_url=servers.admin_url))[0] == 0
    await _refusals(command, servers, tmp_path)
    await _not_ready(servers, tmp_path)
    await _campaign(servers, tmp_path)


async def _campaign(servers: Servers, tmp_path: Path) -> None:
    settings = load(
        CommonSettings,
        ca_file=servers.authority.ca_file,
        amqp_url=servers.admin_url,
        database_url=servers.database_url,
    )
    certificate = servers.authority.certificate(GOOD_HOST)
    with ExitStack() as implicit, ExitStack() as starttls:
        implicit_port, kept = implicit.enter_context(aiosmtpd_relay(Tls.IMPLICIT, certificate))
        start_port, started = starttls.enter_context(aiosmtpd_relay(Tls.STARTTLS, certificate))
        relays = (f"smtp://{RELAY_USER}@{GOOD_HOST}:{start_port}", f"smtps://{RELAY_USER}@{GOOD_HOST}:{implicit_port}")
        async with installation(
            tmp_path, settings.ledger_url, settings.broker_admin_url, "", None, ca_file=str(servers.authority.ca_file)
        ) as system:
            system.settings |= {"amqp_url": servers.amqp_url, "database_url": servers.database_url}
            system.settings["relays"] = " ".join(relays)
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
            assert (await tried(relays[0], servers.authority.ca_file)).ok
            other = Authority(tmp_path, "other").ca_file
            for refused in (await tried(relays[0]), await tried(relays[1], other)):
                assert "certificate verify failed" in refused.found.lower()

            starttls.close()
            again = await system.create(5)
            await system.send(again)
            assert (await system.wait_closed(again))["counts"]["sent"] == len(list(kept.iterdir())) == 5
            said = "".join(process.log_text() for process in system.processes.values())
            assert not [secret for secret in servers.secrets if secret in said]


async def tried(url: str, ca_file: Path | None = None) -> RelayTry:
    """The findings of `doctor` with `ca_file` as a trusted authority."""
    return await try_relay(parse_relay(url, SETTINGS.model_copy(update={"ca_file": ca_file})), stage_seconds=10)


async def _refusals(command: "Command", servers: Servers, tmp_path: Path) -> None:
    stranger = str(Authority(tmp_path, "stranger").ca_file)
    strict, halfway = f"{servers.database_url}?sslmode=verify-full", f"{servers.database_url}?sslmode=prefer"
    wrong_database, wrong_broker = with_host(servers.database_url, WRONG_HOST), with_host(servers.amqp_url, WRONG_HOST)
    blind = f"{servers.amqp_url}?no_verify_ssl=1"
    database, broker = ("db", "check"), ("topology", "check")
    for verb in (database, broker):
        await command.refused(verb, 69, "certificate verify failed", ca_file=stranger)
        await command.refused(verb, 69, "certificate verify failed", ca_file="", database_url=strict)
    await command.refused(database, 69, WRONG_HOST, database_url=wrong_database)
    await command.refused(broker, 69, WRONG_HOST, amqp_url=wrong_broker)
    await command.refused(database, 78, "may fall back", database_url=halfway)
    await command.refused(broker, 78, "no_verify_ssl", amqp_url=blind)
    await command.refused(database, 78, "VASHSENDER_CA_FILE", ca_file=str(tmp_path / "nothing.pem"))


async def _not_ready(servers: Servers, tmp_path: Path) -> None:
    """A service reports the reason and keeps trying."""
    wrong = {
        "database_url": with_host(servers.database_url, WRONG_HOST),
        "amqp_url": with_host(servers.amqp_url, WRONG_HOST),
    }
    process = ServiceProcess("watchdog", servers.settings(**wrong), free_port(), tmp_path, "refused")
    process.launch()
    try:
        await process.wait_health("/health/live", 200)
        checks: dict[str, str] = {}
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
            while not all("certificate" in checks.get(name, "") for name in ("database", "broker")):
                checks = (await client.get(f"{process.http_url}/health/ready")).json()["checks"]
                await asyncio.sleep(0.05)
        assert not [secret for secret in servers.secrets if secret in process.log_text()]
    finally:
        process.kill()


@dataclass(frozen=True)
class Command:
    """Runs `vashsender` in this process, with the good settings except those given. Returns exit code and stderr."""

    servers: Servers
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    async def __call__(self, *words: str, **settings: str) -> tuple[int, str]:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.servers.authority.ca_file.parent)
            chosen = {**self.servers.settings(), **{f"VASHSENDER_{name.upper()}": settings[name] for name in settings}}
            for name, value in chosen.items():
                if value:
                    patch.setenv(name, value)
            exit_code = await asyncio.to_thread(run_command, list(words))
        return exit_code, self.capsys.readouterr().err

    async def refused(self, words: Sequence[str], exit_code: int, why: str, **settings: str) -> None:
        """The command exits with this code and one line with the reason, without a password."""
        ended, said = await self(*words, **settings)
        assert (ended, len(said.splitlines())) == (exit_code, 1), said
        assert why in said
        assert not [secret for secret in self.servers.secrets if secret in said]
