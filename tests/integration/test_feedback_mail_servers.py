"""Our own mail through a real Postfix and a real Exim, which bounce it back to us: what the reports mean, and that none
is lost and none counted twice.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.local.ports import free_port
from shared.ledger.database import Ledger
from tests.support.broker import BrokerVhost
from tests.support.lmtp import with_bounce_domain
from tests.support.relay import RecordingRelay
from tests.support.smtp.certificates import Certificate, certificate_for_localhost
from tests.support.smtp.exim import Exim, exim
from tests.support.smtp.onward import BOUNCES, Onward
from tests.support.smtp.postfix import Postfix, postfix
from tests.support.system import System, installation
from tests.support.waiting import until

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

EACH = 5
"""Recipients at each domain."""

SECONDS = 120.0
REFUSALS = {
    "gone.example.net": b"550 5.1.1 <%s>: Recipient address rejected: User unknown in virtual mailbox table\r\n",
    "full.example.net": b"552 5.2.2 <%s>: user is over quota\r\n",
    "policy.example.net": b"554 5.7.1 <%s>: Message rejected as spam by Content Filtering\r\n",
    "slow.example.net": b"451 4.7.1 <%s>: Greylisted, please try again later\r\n",
}


Behind = Callable[[str, str], AbstractAsyncContextManager[System]]


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_for_localhost(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def remote() -> Iterator[RecordingRelay]:
    """The server of the recipients' domains."""
    relay = RecordingRelay()

    def refusal(rcpt: str, _tries: int) -> bytes | None:
        reply = REFUSALS.get(rcpt.rpartition("@")[2])
        return reply and reply % rcpt.encode()

    relay.behaviour.rcpt = refusal
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
def system_behind(
    tmp_path: Path,
    broker_vhost: BrokerVhost,
    certificate: Certificate,
    remote: RecordingRelay,
    database_url: str,
) -> Behind:
    """Starts all of an installation whose relay is a real mail server, which hands the bounce domain on to us."""

    @asynccontextmanager
    async def started(kind: str, door: str) -> AsyncIterator[System]:
        port = free_port()
        onward = Onward(remote.port, port, "lmtp" if door == "lmtp" else "smtp")
        server: AbstractContextManager[Postfix | Exim] = (
            exim(onward) if kind == "exim" else postfix(certificate.certificate, certificate.key, onward)
        )
        urls = (database_url, broker_vhost.admin_url, broker_vhost.services_url)
        with server as running:
            async with installation(tmp_path, *urls, None, **{f"{door}_port": str(port)}) as system:
                system.settings["relays"] = f"smtp://127.0.0.1:{running.port}?tls=none&verp=yes&name={kind}"
                ledger = Ledger(database_url, pool_size=1)
                await with_bounce_domain(ledger, "example.com", BOUNCES)
                await ledger.close()
                system.launch("feedback")
                await system.start(senders=1)
                yield system

    return started


async def a_sent_campaign(system: System, *names: str) -> str:
    addresses = [f"person-{number}@{name}.example.net" for name in names for number in range(EACH)]
    campaign = await system.create(addresses, **{"from": {"email": "news@example.com", "name": "News"}})
    await system.send(campaign)
    return campaign


async def reports(system: System) -> list[dict[str, Any]]:
    async with system.client() as client:
        found: list[dict[str, Any]] = (await client.get("/reports", params={"limit": 1000})).json()["data"]
    return found


async def suppressed(system: System) -> set[str]:
    async with system.client() as client:
        found = (await client.get("/suppressions", params={"limit": 1000})).json()["data"]
    return {one["email"] for one in found}


def of(name: str) -> set[str]:
    return {f"person-{number}@{name}.example.net" for number in range(EACH)}


@pytest.mark.parametrize(
    ("kind", "door", "database_url"),
    [
        ("postfix", "lmtp", "postgresql"),
        ("postfix", "smtp", "sqlite"),
        ("exim", "lmtp", "sqlite"),
        ("exim", "smtp", "postgresql"),
    ],
    indirect=["database_url"],
)
async def test_bounces_of_our_own_mail_mean_what_the_remote_server_said(
    system_behind: Behind, remote: RecordingRelay, kind: str, door: str
) -> None:
    async with system_behind(kind, door) as system:
        campaign = await a_sent_campaign(system, "gone", "full", "policy", "slow", "well")

        async def all_are_delayed() -> bool:
            delayed = {one["email"] for one in await reports(system) if one["kind"] == "delayed"}
            return len(delayed) >= EACH

        await until(all_are_delayed, SECONDS)
        # What was delayed is given up later: the server of the domain refuses it for good.
        refusals = REFUSALS | {"slow.example.net": b"550 5.1.1 <%s>: no such user here\r\n"}
        remote.behaviour.rcpt = lambda rcpt, _tries: (
            reply % rcpt.encode() if (reply := refusals.get(rcpt.rpartition("@")[2])) else None
        )
        done = await system.wait_until(campaign, lambda answer: answer["counts"]["bounced"] == 4 * EACH, SECONDS)
        assert done["counts"]["sent"] == 5 * EACH
        found = await reports(system)
        bounced = Counter(
            (one["email"].partition("@")[2], one["enhanced_code"], one["why"], one["verified"])
            for one in found
            if one["kind"] == "bounced"
        )
        assert bounced == {
            ("gone.example.net", "5.1.1", "no such mailbox", True): EACH,
            ("full.example.net", "5.2.2", "the mailbox is full", True): EACH,
            ("policy.example.net", "5.7.1", "the content is refused", True): EACH,
            ("slow.example.net", "5.1.1", "no such mailbox", True): EACH,
        }
        assert {one["email"] for one in found if one["kind"] == "delayed"} == of("slow")
        assert {one["verified"] for one in found} == {True}
        assert await suppressed(system) == of("gone") | of("slow")
        assert set(remote.copies) == of("well")


@pytest.mark.parametrize(
    ("kind", "database_url"), [("postfix", "sqlite"), ("exim", "postgresql")], indirect=["database_url"]
)
async def test_reports_wait_at_the_mail_server_while_feedback_is_dead(system_behind: Behind, kind: str) -> None:
    async with system_behind(kind, "lmtp") as system:
        system.processes["feedback"].kill()
        campaign = await a_sent_campaign(system, "gone", "well")
        await system.wait_closed(campaign, SECONDS)
        assert (await system.show(campaign))["counts"]["bounced"] == 0
        for counted in (1, EACH):
            feedback = system.launch("feedback")
            await system.wait_until(campaign, partial(_has_bounced, counted), SECONDS)
            await asyncio.to_thread(feedback.kill)
        assert (await system.show(campaign))["counts"]["bounced"] == EACH
        found = await reports(system)
        assert {one["email"] for one in found} == of("gone") == await suppressed(system)


def _has_bounced(at_least: int, answer: dict[str, Any]) -> bool:
    return bool(answer["counts"]["bounced"] >= at_least)
