"""`send` says what receivers will hold against the campaign's domains, by what the senders say about themselves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api.web import domain_checks
from services.sender.sending_facts import SendingFacts
from shared.dkim_keys import new_key
from shared.ledger import domains, sending_facts
from shared.ledger.models import DEFAULT_PROJECT
from shared.messages.dkim import load_signers
from shared.relays.url import parse_relay
from shared.settings import SenderSettings, load
from tests.support.api import ApiRig, api_on
from tests.support.dns import DnsServer, dns_server
from tests.support.visitor import Visitor, text

FROM = {"email": "news@example.com"}
RELAY = "smtp://127.0.0.1:25?tls=none&name=relay&egress=192.0.2.5"


def quoted(value: str) -> str:
    return " ".join(f'"{value[start : start + 255]}"' for start in range(0, len(value), 255))


@pytest.fixture
async def dns(tmp_path: Path) -> AsyncIterator[DnsServer]:
    """A domain that everyone trusts, with a DKIM key in `tmp_path`."""
    key = new_key(tmp_path, "example.com", "vs1")
    zone = {
        "example.com": {"TXT": ['"v=spf1 ip4:192.0.2.5 -all"'], "MX": ["10 mx.example.com."]},
        "mx.example.com": {"A": ["192.0.2.30"]},
        "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=none; rua=mailto:dmarc@example.com"']},
        key.record_name: {"TXT": [quoted(key.record_text)]},
    }
    async with dns_server(zone) as server:
        yield server


@pytest.fixture
async def api(database_url: str, dns: DnsServer) -> AsyncIterator[ApiRig]:
    async with api_on(database_url, dns_servers=dns.address) as api:
        async with api.ledger.write() as connection:
            await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
        yield api


def a_sender(api: ApiRig, folder: Path, relay: str = RELAY) -> SendingFacts:
    settings = load(SenderSettings, secret_key="a secret that is long enough for this", relays=relay)
    return SendingFacts(api.ledger, load_signers(folder), [parse_relay(relay, settings)])


async def warnings(api: ApiRig, **fields: Any) -> dict[str, str]:
    """What `send` warns of, by the pointers."""
    campaign = await api.create(1, **{"from": FROM, **fields})
    answer = await api.post(f"/v1/campaigns/{campaign}/send")
    names = [one["detail"].partition(":")[0] for one in answer["warnings"]]
    timeline = (await api.get(f"/v1/campaigns/{campaign}/timeline"))["data"]
    said = [entry["text"] for entry in timeline if entry["kind"] == "warned"]
    assert [", ".join(names) in text for text in said] == ([True] if names else [])
    return {f"{one['pointer']} {one['detail'].partition(':')[0]}": one["detail"] for one in answer["warnings"]}


async def test_send_warns_of_nothing_but_the_development_url(api: ApiRig, tmp_path: Path) -> None:
    await a_sender(api, tmp_path).tick()
    assert list(await warnings(api)) == ["# unsubscribe link"]


async def test_send_warns_of_each_fault_and_remembers_for_a_while(
    api: ApiRig, dns: DnsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_sender(api, tmp_path, RELAY.replace("192.0.2.5", "198.51.100.7")).tick()
    broken = {name: records for name, records in dns.zone.items() if name != "_dmarc.example.com"}
    dns.zone = broken | {"vs1._domainkey.example.com": {"TXT": ['"v=DKIM1; p=MIGfMA0G"']}}
    found = await warnings(api)
    assert set(found) == {"#/from DMARC", "#/from DKIM vs1", "#/envelope_from SPF of relay", "# unsubscribe link"}
    assert "another key is published" in found["#/from DKIM vs1"]
    assert "198.51.100.7" in found["#/envelope_from SPF of relay"]
    asked = len(dns.asked)
    assert await warnings(api) == found
    assert len(dns.asked) == asked
    monkeypatch.setattr(domain_checks, "KEPT_SECONDS", 0.0)
    await api.post("/v1/domains/example.com/check", {}, 200)
    asked = len(dns.asked)
    await warnings(api)
    assert len(dns.asked) > asked, "it looks again once the result is old"


async def test_an_unsigned_domain_and_a_foreign_envelope_are_warned_of(api: ApiRig, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    await a_sender(api, tmp_path / "none").tick()
    async with api.ledger.write() as connection:
        await domains.add(connection, "relay.example", DEFAULT_PROJECT, "operator")
    found = await warnings(api, envelope_from="bounces@relay.example")
    assert "does not sign" in found["#/from DKIM"]
    assert "not aligned" in found["#/envelope_from alignment of SPF"]
    assert "#/envelope_from bounces" in found


async def test_a_domain_without_an_owner_is_not_looked_up(api: ApiRig, dns: DnsServer) -> None:
    assert await warnings(api, **{"from": {"email": "news@elsewhere.example"}}) == {}
    assert dns.asked == []


async def test_send_does_not_wait_for_a_dns_that_is_silent(
    api: ApiRig, dns: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_checks, "SEND_SECONDS", 0.2)
    dns.silent = {"example.com", "_dmarc.example.com"}
    assert await warnings(api) == {}
    asked = len(dns.asked)
    assert await warnings(api) == {}
    assert len(dns.asked) == asked, "the next campaign does not wait again"


async def test_the_check_and_the_page_compare_with_what_the_senders_say(api: ApiRig, tmp_path: Path) -> None:
    path = "/v1/domains/example.com/check"
    before = await api.post(path, {}, 200)
    assert {"DKIM", "SPF"} <= {one["name"] for one in before["findings"] if one["verdict"] == "unknown"}
    await a_sender(api, tmp_path).tick()
    after = {one["name"]: one["verdict"] for one in (await api.post(path, {}, 200))["findings"]}
    assert (after["DKIM vs1"], after["SPF of relay"]) == ("ok", "ok")
    visitor = await Visitor.signed_in(api)
    campaign = await api.create(1, **{"from": FROM})
    sent = await visitor.post(await visitor.get(f"/campaigns/{campaign}"), f"/campaigns/{campaign}/send")
    shown = text(await visitor.get(sent.headers["location"]))
    assert "There are warnings" in shown
    assert "warnings about its domains: unsubscribe link." in shown


async def test_facts_are_said_again_every_hour_and_count_for_a_day(
    api: ApiRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = a_sender(api, tmp_path)
    await sender.tick()
    async with api.ledger.read() as connection:
        said = await sending_facts.dkim(connection, "example.com")
        assert said is not None
        assert said.selector == "vs1"
        assert await sending_facts.dkim(connection, "news.example.com") is None
    monkeypatch.setattr(sending_facts, "LIFE_SECONDS", -1.0)
    async with api.ledger.read() as connection:
        assert await sending_facts.egress(connection) is None
    await sender.tick()
    await asyncio.gather(a_sender(api, tmp_path).tick(), a_sender(api, tmp_path).tick())
    monkeypatch.setattr(sending_facts, "LIFE_SECONDS", 60.0)
    async with api.ledger.read() as connection:
        assert await sending_facts.egress(connection) is None, "what is old is deleted"
