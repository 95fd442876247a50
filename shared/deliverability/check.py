"""Whether receivers will trust the mail of a domain: one result for each thing that they look at."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from shared.deliverability.dkim_record import wrong_with_record
from shared.deliverability.dmarc import Dmarc, discover, is_aligned
from shared.deliverability.dns import Dns, DnsError
from shared.deliverability.spf import check_host

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

CHECK_SECONDS = 20.0
"""Of one check in all; they run at the same time."""
REACH_SECONDS = 8.0
LARGEST_ANSWER_BYTES = 100_000
NO_TOKEN = "x"
"""Stands where an unsubscribe link has its token. No one has it, so the page only says so."""


class Verdict(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    #: Nothing is known to be wrong, but what is needed to know is not here.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, in words."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
    #: DNS gave no answer, or not in time: it may be another one soon.
    may_change: bool = False
    #: It is about a domain that VashSender has no DKIM key for.
    is_unsigned: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """One of our DKIM keys."""

    selector: str
    key: "RSAPublicKey"


@dataclass(frozen=True, slots=True)
class Egress:
    """The addresses from which a relay sends; empty if they are not known."""

    relay: str
    addresses: tuple[IPv4Address | IPv6Address, ...]

    @classmethod
    def of(cls, relay: str, addresses: Iterable[str]) -> "Egress":
        return cls(relay, tuple(ip_address(one) for one in addresses))


@dataclass(frozen=True, slots=True)
class Setup:
    """How a domain's mail is sent from here."""

    #: Of the From addresses, in the form used in DNS.
    domain: str
    #: Of the envelope sender: a bounce domain, or the same.
    envelope_domain: str
    #: Keys that sign for the domain; None if the keys are not readable here.
    signatures: Sequence[Signature] | None
    #: None: the relays are not known here.
    egress: Sequence[Egress] | None
    public_url: str


async def examine_domain(dns: Dns, setup: Setup) -> list[Finding]:
    """Every check, even if others fail. Raises nothing that DNS or a server causes."""
    parts: list[tuple[str, Callable[[], Awaitable[list[Finding]]]]] = [
        ("DMARC", lambda: _dmarc(dns, setup)),
        ("DKIM", lambda: _dkim(dns, setup)),
        ("SPF", lambda: _spf(dns, setup)),
        ("bounces", lambda: _bounces(dns, setup)),
        ("unsubscribe link", lambda: one_click(setup.public_url)),
    ]
    return [finding for found in await asyncio.gather(*(_bounded(*part) for part in parts)) for finding in found]


async def _bounded(name: str, check: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return [Finding(name, Verdict.UNKNOWN, f"no result within {CHECK_SECONDS:g} s", "try again", may_change=True)]
    except DnsError as error:
        advice = "try again; if it stays, ask who runs this DNS"
        return [Finding(name, Verdict.UNKNOWN, str(error), advice, may_change=True)]


async def _dmarc(dns: Dns, setup: Setup) -> list[Finding]:
    found = await discover(dns, setup.domain)
    record = found.record
    if record is None:
        publish = f'_dmarc.{setup.domain}. IN TXT "v=DMARC1; p=none; rua=mailto:..."'
        advice = f"publish one, for a start {publish}: large providers refuse bulk mail without"
        return [Finding("DMARC", Verdict.WRONG, "there is no record for the domain or above it", advice)]
    said = f"p={found.policy} at _dmarc.{record.domain}, organizational domain {found.organizational}"
    if record.testing:
        said += ", t=y: receivers do not apply it"
    no_reports = "" if record.reports else "add rua=mailto:... to learn who sends in your name"
    return [Finding("DMARC", Verdict.OK, said, no_reports), *await _alignment(dns, setup, found)]


async def _alignment(dns: Dns, setup: Setup, author: Dmarc) -> list[Finding]:
    """One of the two is enough for DMARC; DKIM survives forwarding, SPF does not."""
    assert author.record is not None
    spf = await is_aligned(dns, author, setup.envelope_domain, strict=author.record.strict_spf)
    dkim = bool(setup.signatures)
    mode = "strict" if author.record.strict_spf else "relaxed"
    said = f"envelope {setup.envelope_domain} and From {setup.domain} are {'' if spf else 'not '}aligned ({mode})"
    if spf:
        return [Finding("alignment of SPF", Verdict.OK, said)]
    advice = f"use an envelope domain below {author.organizational}, or rely on DKIM alone"
    return [Finding("alignment of SPF", Verdict.UNKNOWN if dkim else Verdict.WRONG, said, advice)]


async def _dkim(dns: Dns, setup: Setup) -> list[Finding]:
    if setup.signatures is None:
        advice = "run `vashsender doctor domain` where VASHSENDER_DKIM_DIR is readable"
        return [Finding("DKIM", Verdict.UNKNOWN, "the keys are not readable here", advice)]
    if not setup.signatures:
        advice = f"`vashsender dkim new {setup.domain}`, unless the relay signs with d={setup.domain}"
        found = "VashSender does not sign for this domain"
        return [Finding("DKIM", Verdict.UNKNOWN, found, advice, is_unsigned=True)]
    findings = []
    for signature in setup.signatures:
        name = f"{signature.selector}._domainkey.{setup.domain}"
        wrong = await wrong_with_record(dns, name, signature.key)
        verdict = Verdict.WRONG if wrong else Verdict.OK
        advice = "publish the record that `vashsender dkim new` printed" if wrong else ""
        findings.append(Finding(f"DKIM {signature.selector}", verdict, wrong or f"{name} has our key", advice))
    return findings


async def _spf(dns: Dns, setup: Setup) -> list[Finding]:
    if setup.egress is None:
        return [Finding("SPF", Verdict.UNKNOWN, "the relays are not known here", "run `vashsender doctor domain`")]
    return [finding for egress in setup.egress for finding in await _spf_of(dns, setup, egress)]


async def _spf_of(dns: Dns, setup: Setup, egress: Egress) -> list[Finding]:
    name = f"SPF of {egress.relay}"
    if not egress.addresses:
        advice = "add ?egress=ADDRESS to its URL: the addresses its mail leaves from, which its host name does not tell"
        return [Finding(name, Verdict.UNKNOWN, "the addresses it sends from are not known", advice)]
    findings = []
    for address in egress.addresses:
        fresh = await check_host(dns, address, setup.envelope_domain, f"bounce@{setup.envelope_domain}")
        said = f"{fresh.result} for {address}: {fresh.reason}; {fresh.lookups} of 10 lookups"
        verdict = {"pass": Verdict.OK, "temperror": Verdict.UNKNOWN}.get(fresh.result, Verdict.WRONG)
        advice = "" if verdict is Verdict.OK else f"let the SPF record of {setup.envelope_domain} pass this address"
        findings.append(Finding(name, verdict, said, advice))
    return findings


async def _bounces(dns: Dns, setup: Setup) -> list[Finding]:
    """Whether bounces can be delivered: receivers also refuse mail whose envelope domain takes none."""
    domain = setup.envelope_domain
    names = await dns.mx(domain)
    if names == ["."]:
        advice = "remove the null MX: receivers refuse senders that take no bounces"
        return [Finding("bounces", Verdict.WRONG, f"{domain} says that it takes no mail (RFC 7505)", advice)]
    hosts = names or [domain]
    for host in hosts[:10]:
        if await dns.addresses(host, 4) or await dns.addresses(host, 6):
            return [Finding("bounces", Verdict.OK, f"mail for {domain} goes to {host}")]
    found = f"{domain} has no MX and no address" if not names else f"no MX of {domain} has an address"
    return [Finding("bounces", Verdict.WRONG, found, f"publish an MX for {domain}")]


async def one_click(public_url: str, trust: ssl.SSLContext | bool = True) -> list[Finding]:
    """RFC 8058, section 3: an https address that answers. Follows no redirect, and verifies the certificate by the
    authorities that recipients have, unless `trust` names others."""
    name, url = "unsubscribe link", f"{public_url}/u/{NO_TOKEN}"
    if not public_url.startswith("https://"):
        advice = "set VASHSENDER_PUBLIC_URL to an https address that recipients reach"
        return [Finding(name, Verdict.WRONG, f"{public_url} is not https", advice)]
    unreached = Finding(
        name, Verdict.WRONG, "", "recipients must reach it: check DNS, proxy and certificate, for /u/ at least"
    )
    import httpx  # megabytes that only this check needs

    if trust is True:  # reading all authorities takes a while
        trust = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
    try:
        async with (
            httpx.AsyncClient(timeout=REACH_SECONDS, trust_env=False, verify=trust) as client,
            client.stream("GET", url, headers={"Accept-Language": "en"}) as answer,
        ):
            said = b""
            async for block in answer.aiter_bytes():
                said += block
                if len(said) > LARGEST_ANSWER_BYTES:
                    break
    except (httpx.HTTPError, OSError) as error:
        return [replace(unreached, found=f"{url}: {str(error) or type(error).__name__}")]
    if answer.status_code != 404 or b"link is damaged" not in said:
        return [replace(unreached, found=f"{url} answered {answer.status_code}, and not as VashSender does")]
    return [Finding(name, Verdict.OK, f"{public_url}/u/ answers over https")]
