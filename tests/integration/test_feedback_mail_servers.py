"""Bounces that a real Postfix makes of our own mail come back through it, and are counted: none is lost, none twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.local.ports import free_port
from shared.ledger import domains
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.broker import BrokerVhost
from tests.support.smtp.certificates import Certificate, certificate_for_localhost
from tests.support.smtp.postfix import BOUNCES, GONE, Postfix, postfix
from tests.support.system import System, installation

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

RECIPIENTS = 30
SECONDS = 200.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_for_localhost(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def sending(
    tmp_path: Path, database_url: str, broker_vhost: BrokerVhost, certificate: Certificate
) -> AsyncIterator[tuple[System, Postfix]]:
    """An installation whose relay is a Postfix that takes bounces to feedback."""
    lmtp_port = free_port()
    with postfix(certificate.certificate, certificate.key, lmtp_port) as relay:
        async with installation(
            tmp_path, database_url, broker_vhost.admin_url, broker_vhost.services_url, None, lmtp_port=str(lmtp_port)
        ) as system:
            system.settings["relays"] = f"smtp://127.0.0.1:{relay.port}?tls=none&verp=yes&name=postfix"
            ledger = Ledger(database_url, pool_size=1)
            async with ledger.write() as connection:
                domain = await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
                await domains.set_bounce_domain(connection, domain, BOUNCES)
            await ledger.close()
            yield system, relay


async def a_campaign(system: System) -> str:
    addresses = [f"person-{number}@{GONE}" for number in range(RECIPIENTS)]
    campaign = await system.create(addresses, **{"from": {"email": "news@example.com", "name": "News"}})
    await system.send(campaign)
    return campaign


async def test_bounces_of_our_own_mail_are_counted(sending: tuple[System, Postfix]) -> None:
    system, _ = sending
    system.launch("feedback")
    await system.start(senders=1)
    campaign = await a_campaign(system)
    done = await system.wait_until(campaign, lambda answer: answer["counts"]["bounced"] == RECIPIENTS, SECONDS)
    assert done["counts"]["sent"] == RECIPIENTS
    async with system.client() as client:
        reports = (await client.get("/reports", params={"limit": 1000})).json()["data"]
        suppressed = (await client.get("/suppressions", params={"limit": 1000})).json()["data"]
    assert {(one["kind"], one["verified"], one["enhanced_code"]) for one in reports} == {("bounced", True, "5.1.1")}
    assert len(reports) == len(suppressed) == RECIPIENTS


async def test_killed_at_any_moment_it_loses_none_and_counts_none_twice(sending: tuple[System, Postfix]) -> None:
    system, _ = sending
    feedback = system.launch("feedback")
    await system.start(senders=1)
    campaign = await a_campaign(system)
    for counted in (1, RECIPIENTS // 3, RECIPIENTS // 2):
        least = counted
        await system.wait_until(campaign, lambda answer, least=least: answer["counts"]["bounced"] >= least, SECONDS)
        await asyncio.to_thread(feedback.kill)
        feedback = system.launch("feedback")
    await system.wait_until(campaign, lambda answer: answer["counts"]["bounced"] == RECIPIENTS, SECONDS)
    async with system.client() as client:
        reports = (await client.get("/reports", params={"limit": 1000})).json()["data"]
    assert len(reports) == len({one["recipient_id"] for one in reports}) == RECIPIENTS
