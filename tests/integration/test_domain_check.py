"""`vashsender doctor domain` against a DNS server and a web server of the test's own."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli import domain_check
from cli.main import run
from cli.settings import LocalSettings
from services.api.web import domain_checks
from shared.deliverability import check
from shared.deliverability.check import Finding, Verdict
from shared.deliverability.dkim_record import wrong_with_record
from shared.deliverability.dns import Dns, DnsError
from shared.deliverability.spf import check_host
from shared.dkim_keys import find_keys, load_key, new_key
from shared.errors import ConfigurationError
from shared.ledger import domains, projects
from shared.ledger.models import DEFAULT_PROJECT
from tests.support.api import api_on
from tests.support.dns import DnsServer, dns_server
from tests.support.smtp.certificates import certificate_for_localhost

Zone = dict[str, dict[str, list[str]]]


def quoted(text: str) -> str:
    return " ".join(f'"{text[start : start + 255]}"' for start in range(0, len(text), 255))


@pytest.fixture
def dkim_dir(tmp_path: Path) -> Path:
    return tmp_path / "dkim"


@pytest.fixture
def zone(dkim_dir: Path) -> Zone:
    """A domain whose mail everyone trusts."""
    key = new_key(dkim_dir, "example.com", "vs1")
    return {
        "example.com": {
            "TXT": ['"v=spf1 include:_spf.relay.example -all"', '"unrelated"'],
            "MX": ["10 mx.example.com."],
        },
        "_spf.relay.example": {"TXT": ['"v=spf1 ip4:192.0.2.0/28 ip6:2001:db8::/32 ?all"']},
        "mx.example.com": {"A": ["192.0.2.30"]},
        "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=quarantine; rua=mailto:dmarc@example.com"']},
        key.record_name: {"TXT": [quoted(key.record_text)]},
    }


def settings(server: DnsServer, folder: Path, dkim_dir: Path, **more: Any) -> LocalSettings:
    relay = "smtp://127.0.0.1:25?tls=none&name=relay&egress=192.0.2.5;2001:db8::5"
    given = {"dns_servers": server.address, "var_dir": folder, "dkim_dir": dkim_dir, "relays": relay, **more}
    return LocalSettings(**given)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


async def test_a_domain_that_everyone_trusts(zone: Zone, tmp_path: Path, dkim_dir: Path) -> None:
    async with dns_server(zone) as server:
        found = by_name(await domain_check.examine(settings(server, tmp_path, dkim_dir), "Example.com"))
    wrong = {name: finding for name, finding in found.items() if finding.verdict is not Verdict.OK}
    assert set(wrong) == {"unsubscribe link"}, "a development URL is not https"
    assert "p=quarantine" in found["DMARC"].found
    assert "has our key" in found["DKIM vs1"].found
    assert "pass for 2001:db8::5" in found["SPF of relay"].found
    assert "1 of 10 lookups" in found["SPF of relay"].found
    assert "mx.example.com" in found["bounces"].found
    long = "vs1._domainkey.example.com"
    assert (long, "TXT", "tcp") in server.asked, "a key does not fit into a datagram"


def without(zone: Zone, name: str) -> Zone:
    return {each: records for each, records in zone.items() if each != name}


BROKEN: dict[str, tuple[Callable[[Zone], Zone], str, Verdict, str]] = {
    "no DMARC": (lambda zone: without(zone, "_dmarc.example.com"), "DMARC", Verdict.WRONG, "no record"),
    "another key": (
        lambda zone: zone | {"vs1._domainkey.example.com": {"TXT": ['"v=DKIM1; p=MIGfMA0G"']}},
        "DKIM vs1", Verdict.WRONG, "another key",
    ),
    "a revoked key": (
        lambda zone: zone | {"vs1._domainkey.example.com": {"TXT": ['"v=DKIM1; p="']}},
        "DKIM vs1", Verdict.WRONG, "revoked",
    ),
    "no key": (lambda zone: without(zone, "vs1._domainkey.example.com"), "DKIM vs1", Verdict.WRONG, "no TXT record"),
    "two keys": (
        lambda zone: zone | {"vs1._domainkey.example.com": {"TXT": ['"v=DKIM1; p=a"', '"v=DKIM1; p=b"']}},
        "DKIM vs1", Verdict.WRONG, "2 TXT records",
    ),
    "SPF elsewhere": (
        lambda zone: zone | {"_spf.relay.example": {"TXT": ['"v=spf1 ip4:198.51.100.1 -all"']}},
        "SPF of relay", Verdict.WRONG, "fail for",
    ),
    "an include of nothing": (
        lambda zone: without(zone, "_spf.relay.example"), "SPF of relay", Verdict.WRONG, "permerror",
    ),
    "no MX host": (lambda zone: without(zone, "mx.example.com"), "bounces", Verdict.WRONG, "no MX of"),
    "null MX": (
        lambda zone: zone | {"example.com": {**zone["example.com"], "MX": ["0 ."]}},
        "bounces", Verdict.WRONG, "takes no mail",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
async def test_each_fault_is_found(case: str, zone: Zone, tmp_path: Path, dkim_dir: Path) -> None:
    change, name, verdict, words = BROKEN[case]
    async with dns_server(change(zone)) as server:
        found = by_name(await domain_check.examine(settings(server, tmp_path, dkim_dir), "example.com"))
    assert found[name].verdict is verdict, found[name]
    assert words in found[name].found
    assert found[name].advice


async def test_another_organization_in_the_envelope_is_not_aligned(zone: Zone, tmp_path: Path, dkim_dir: Path) -> None:
    async with dns_server(zone) as server:
        config = settings(server, tmp_path, dkim_dir)
        foreign = by_name(await domain_check.examine(config, "example.com", "relay.example"))
        assert foreign["alignment of SPF"].verdict is Verdict.UNKNOWN, "DKIM is enough"
        unsigned = by_name(
            await domain_check.examine(settings(server, tmp_path, tmp_path), "example.com", "relay.example")
        )
        assert unsigned["alignment of SPF"].verdict is Verdict.WRONG
        below = by_name(await domain_check.examine(config, "example.com", "bounces.example.com"))
        assert below["alignment of SPF"].verdict is Verdict.OK


async def test_what_is_not_known_here_is_not_called_wrong(zone: Zone, tmp_path: Path) -> None:
    async with dns_server(zone) as server:
        plain = "smtp://127.0.0.1:25?tls=none&name=relay"
        config = settings(server, tmp_path, tmp_path, relays=plain)
        found = by_name(await domain_check.examine(config, "example.com"))
    assert (found["SPF of relay"].verdict, found["DKIM"].verdict) == (Verdict.UNKNOWN, Verdict.UNKNOWN)
    assert "?egress=" in found["SPF of relay"].advice


async def test_dns_that_fails_or_is_silent_ends_in_time(
    zone: Zone, tmp_path: Path, dkim_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.deliverability.dns.QUESTION_SECONDS", 0.4)
    async with dns_server(zone) as server:
        server.failing = {"_dmarc.example.com"}
        server.silent = {"example.com"}
        async with asyncio.timeout(check.CHECK_SECONDS):
            found = by_name(await domain_check.examine(settings(server, tmp_path, dkim_dir), "example.com"))
    for name in ("DMARC", "SPF of relay", "bounces"):
        assert found[name].verdict is Verdict.UNKNOWN, found[name]
        assert "DNS" in found[name].found


async def test_questions_are_bounded(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.deliverability.dns.MOST_QUESTIONS", 3)
    async with dns_server({}) as server:
        dns = Dns(server.address)
        for number in range(3):
            assert await dns.txt(f"{number}.example") == []
        assert await dns.txt("0.example") == [], "an answer is kept"
        with pytest.raises(DnsError, match="more than 3 questions"):
            await dns.txt("3.example")
        assert len(server.asked) == 3
        spf = await check_host(dns, ip_address("192.0.2.1"), "4.example", "")
        assert spf.result == "temperror"


@pytest.mark.parametrize("servers", ["dns.example.com", "127.0.0.1:x", "1.2.3.4.5", "[::1]:99999999"])
def test_a_dns_server_is_an_address(servers: str) -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_DNS_SERVERS"):
        Dns(servers)


async def test_the_published_key_may_have_either_form(dkim_dir: Path) -> None:
    new_key(dkim_dir, "example.com", "vs1")
    [file] = find_keys(dkim_dir)
    key = load_key(file).public_key()
    for form in (PublicFormat.PKCS1, PublicFormat.SubjectPublicKeyInfo):
        published = base64.b64encode(key.public_bytes(Encoding.DER, form)).decode()
        async with dns_server({"a.example": {"TXT": [quoted(f"p={published[:200]} {published[200:]}")]}}) as server:
            assert await wrong_with_record(Dns(server.address), "a.example", key) == ""


@asynccontextmanager
async def web(context: ssl.SSLContext, answer: bytes) -> AsyncIterator[int]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def page(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


OURS = page("404 Not Found", b"This link is damaged or no longer valid.")
ANSWERS = {
    "ours": (OURS, Verdict.OK, "answers over https"),
    "another site": (page("200 OK", b"Welcome to nginx"), Verdict.WRONG, "answered 200"),
    "a redirect": (page("301 Moved Permanently", b""), Verdict.WRONG, "answered 301"),
    "too much": (page("200 OK", b"x" * 300_000), Verdict.WRONG, "answered 200"),
    "nonsense": (b"nonsense\r\n\r\n", Verdict.WRONG, "https://localhost"),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_the_unsubscribe_link_is_reachable_over_https(answer: str, tmp_path: Path) -> None:
    said, verdict, words = ANSWERS[answer]
    certificate = certificate_for_localhost(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate.certificate)
    async with web(certificate.server_context(), said) as port:
        [found] = await check.one_click(f"https://localhost:{port}", trusting)
        assert (found.verdict, words in found.found) == (verdict, True), found
        [untrusted] = await check.one_click(f"https://localhost:{port}")
        assert untrusted.verdict is Verdict.WRONG
        assert "certificate" in untrusted.found
    [closed] = await check.one_click(f"https://localhost:{port}", trusting)
    assert closed.verdict is Verdict.WRONG


@pytest.fixture
def command_dns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("VASHSENDER_VAR_DIR", str(tmp_path))
    return monkeypatch


async def test_the_command_says_what_is_wrong(
    zone: Zone, dkim_dir: Path, command_dns: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with dns_server(zone) as server:
        command_dns.setenv("VASHSENDER_DNS_SERVERS", server.address)
        command_dns.setenv("VASHSENDER_DKIM_DIR", str(dkim_dir))
        code = await asyncio.to_thread(run, ["doctor", "domain", "example.com", "--json"])
        shown = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
        assert (code, shown["DMARC"]["verdict"], shown["unsubscribe link"]["verdict"]) == (1, "ok", "wrong")
        assert await asyncio.to_thread(run, ["doctor", "domain", "not a domain"]) == 65


async def test_a_project_checks_its_own_domains_over_http(zone: Zone, sqlite_url: str) -> None:
    async with dns_server(zone) as server, api_on(sqlite_url, dns_servers=server.address) as api:
        async with api.ledger.write() as connection:
            await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
            other = (await projects.create(connection, "other")).id
            await domains.add(connection, "relay.example", other, "operator")
        answer = await api.post("/v1/domains/Example.com/check", {"egress": ["192.0.2.5", "198.51.100.9"]}, 200)
        shown = [(one["name"], one["verdict"]) for one in answer["findings"]]
        assert (answer["domain"], answer["ok"]) == ("example.com", False)
        assert ("DMARC", "ok") in shown
        assert ("DKIM", "unknown") in shown, "no sender has said which keys sign"
        assert [verdict for name, verdict in shown if name.startswith("SPF")] == ["ok", "wrong"]
        assert await api.request("POST", "/v1/domains/example.com/check") == await api.post(
            "/v1/domains/example.com/check", {}, 200
        ), "without a body it checks with the defaults"
        below = await api.post("/v1/domains/news.example.com/check", {"envelope_domain": "example.com"}, 200)
        assert ("alignment of SPF", "ok") in [(one["name"], one["verdict"]) for one in below["findings"]]
        asked = len(server.asked)
        for stranger in ("relay.example", "nowhere.example", "not a domain", "com"):
            await api.post(f"/v1/domains/{stranger}/check", {}, 404)
        await api.post("/v1/domains/example.com/check", {"envelope_domain": "a..b"}, 422)
        await api.post("/v1/domains/example.com/check", {"egress": ["mail.example.com"]}, 422)
        await api.post("/v1/domains/example.com/check", {"egress": ["192.0.2.5"] * 21}, 422)
        assert len(server.asked) == asked, "nothing is asked about what is refused"


async def test_checks_at_one_time_are_bounded(zone: Zone, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_dns: Dns, _setup: check.Setup) -> list[Finding]:
        begun.release()
        await go_on.wait()
        return []

    monkeypatch.setattr(domain_checks, "examine_domain", slow)
    async with api_on(sqlite_url) as api:
        async with api.ledger.write() as connection:
            await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
        path = "/v1/domains/example.com/check"
        running = [asyncio.create_task(api.post(path, {}, 200)) for _ in range(domain_checks.AT_ONCE)]
        for _ in running:
            await begun.acquire()
        busy = await api.post(path, {}, 503)
        assert busy["type"] == "urn:vashsender:problem:checks-busy"
        go_on.set()
        assert all(answer["ok"] for answer in await asyncio.gather(*running))
        await api.post(path, {}, 200)
