"""An email that arrived, judged as receivers judge it: from which address, by which name, and whether SPF, DKIM and
DMARC prove who sent it."""

import asyncio
import email.policy
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import parseaddr
from ipaddress import ip_address, ip_network

from shared.deliverability import dkim_verify
from shared.deliverability.check import Finding, Verdict
from shared.deliverability.dmarc import discover, is_aligned
from shared.deliverability.dns import Address, Dns, DnsError
from shared.deliverability.spf import check_host

MOST_SIGNATURES = 5
"""That are verified."""
MOST_NAMES = 10
"""Names of one address that are looked at."""

_INSIDE = [
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
    )
]
"""Addresses that no receiver on the internet sees."""

_ADDRESS_LITERAL = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f:.]{2,45})\]", re.IGNORECASE)
_HELO_NOTE = re.compile(r"\bhelo=([^\s()]{1,255})")
_FROM = re.compile(r"\s*from\s+(\S{1,255})(.*?)(?:\sby\s|;|$)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a receiver saw."""

    #: The address that connected; None: not known.
    address: Address | None
    #: The name in HELO or EHLO.
    helo: str
    #: MAIL FROM; empty for `<>`.
    sender: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """The result of one DKIM signature."""

    domain: str
    selector: str
    #: Empty: it is good.
    wrong: str
    #: DNS gave no answer about its key.
    may_change: bool = False


def last_hop(message: bytes) -> tuple[Address | None, str]:
    """The address and the HELO that our mail server noted in the first Received header (RFC 5321, 4.4), as Postfix,
    Exim, Sendmail and Exchange write it."""
    received = _parsed(message).get("received", "")
    found = _FROM.match(str(received))
    if found is None:
        return None, ""
    # Exim writes `from NAME ([ADDRESS] helo=HELO)`, the others `from HELO (NAME [ADDRESS])`.
    noted = _HELO_NOTE.search(found[2])
    literal = _ADDRESS_LITERAL.search(found[2]) or _ADDRESS_LITERAL.search(found[1])
    return _address(literal[1]) if literal else None, noted[1] if noted else found[1]


async def judge(dns: Dns, arrived: Arrived, sent_as: str) -> list[Finding]:
    """What receivers find. `sent_as` is the MAIL FROM with which it was sent. Raises nothing that DNS causes."""
    signatures = await verify(dns, arrived.message)
    inside = arrived.address is None or any(arrived.address in network for network in _INSIDE)
    findings = [_outside(arrived, inside=inside)]
    if arrived.address is not None and not inside:
        findings += [
            await _guarded("HELO", _helo(dns, arrived.address, arrived.helo)),
            await _guarded("PTR", _ptr(dns, arrived.address)),
        ]
    findings.append(_envelope(arrived.sender, sent_as))
    spf, passed = await _spf(dns, arrived, inside=inside)
    return [
        *findings,
        spf,
        *of_signatures(signatures),
        await _guarded("DMARC", _dmarc(dns, arrived, passed, signatures)),
    ]


async def verify(dns: Dns, octets: bytes) -> list[Signed]:
    """The results of the DKIM signatures (RFC 6376), the newest first. Takes any bytes."""
    message = dkim_verify.parse(octets)
    return [await _verified(dns, message, signature) for signature in message.signatures[:MOST_SIGNATURES]]


async def _verified(dns: Dns, message: dkim_verify.Message, signature: dkim_verify.Field) -> Signed:
    tags = dkim_verify.signature_tags(signature)
    domain, selector = tags.get("d", "")[:253].lower(), tags.get("s", "")[:253]
    name = f"{selector}._domainkey.{domain}"
    try:
        records = await dns.txt(name)
    except DnsError as error:
        return Signed(domain, selector, str(error), may_change=True)
    if not records:
        return Signed(domain, selector, f"there is no TXT record at {name}")
    try:
        await asyncio.to_thread(dkim_verify.verify, message, signature, records[0])
    except dkim_verify.SignatureError as error:
        return Signed(domain, selector, str(error))
    return Signed(domain, selector, "")


def _outside(arrived: Arrived, *, inside: bool) -> Finding:
    name = "outside address"
    if arrived.address is None:
        advice = "the mail server before this door must write a Received header with the address that connected"
        return Finding(name, Verdict.UNKNOWN, "it is not known from which address the email came", advice)
    if inside:
        advice = "send the probe to a door that takes mail from the internet"
        found = f"{arrived.address} is an address inside: HELO, PTR and SPF cannot be judged by it"
        return Finding(name, Verdict.UNKNOWN, found, advice)
    return Finding(name, Verdict.OK, f"it came from {arrived.address}")


async def _helo(dns: Dns, address: Address, helo: str) -> Finding:
    """RFC 5321, 4.1.4: the name should be the sender's; many receivers refuse one that does not exist."""
    advice = "let who runs the relay set its HELO to a name with that address"
    if "." not in helo.strip(".") or helo.startswith("["):
        return Finding("HELO", Verdict.WRONG, f"{helo or 'nothing'} is no full host name", advice)
    known = await dns.addresses(helo, address.version)
    if address in known:
        return Finding("HELO", Verdict.OK, f"{helo} has the address {address}")
    if known:
        return Finding("HELO", Verdict.UNKNOWN, f"{helo} has other addresses than {address}", advice)
    return Finding("HELO", Verdict.WRONG, f"{helo} has no address", advice)


async def _ptr(dns: Dns, address: Address) -> Finding:
    """Large providers refuse mail from an address whose name does not lead back to it."""
    advice = f"let who owns {address} give it a PTR record with a name that has this address"
    names = await dns.ptr(address)
    if not names:
        return Finding("PTR", Verdict.WRONG, f"{address} has no name", advice)
    for name in names[:MOST_NAMES]:
        if address in await dns.addresses(name, address.version):
            return Finding("PTR", Verdict.OK, f"{address} is {name}, and {name} is {address}")
    return Finding("PTR", Verdict.WRONG, f"{address} is {names[0]}, which does not lead back to it", advice)


def _envelope(sender: str, sent_as: str) -> Finding:
    name = "envelope sender"
    if sender.lower() == sent_as.lower():
        return Finding(name, Verdict.OK, f"{sender}, as it was sent")
    if not sender:
        return Finding(name, Verdict.WRONG, "the email came back: it could not be delivered", "look at the relay's log")
    advice = "bounces go there; remove ?verp=yes from the relay's URL, if it is set"
    return Finding(name, Verdict.UNKNOWN, f"the relay made {sender} of {sent_as}", advice)


async def _spf(dns: Dns, arrived: Arrived, *, inside: bool) -> tuple[Finding, bool]:
    """The finding, and whether it passed."""
    domain = arrived.sender.rpartition("@")[2] or arrived.helo
    if arrived.address is None or inside:
        found = "not judged: the address that strangers see is not known"
        return Finding("SPF", Verdict.UNKNOWN, found, f"`vashsender doctor domain {domain}` judges ?egress="), False
    spf = await check_host(dns, arrived.address, domain, arrived.sender, arrived.helo)
    verdict = {"pass": Verdict.OK, "temperror": Verdict.UNKNOWN}.get(spf.result, Verdict.WRONG)
    advice = "" if verdict is Verdict.OK else f"let the SPF record of {domain} pass {arrived.address}"
    finding = Finding("SPF", verdict, f"{spf.result}: {spf.reason}", advice, may_change=spf.result == "temperror")
    return finding, spf.result == "pass"


def of_signatures(signatures: Sequence[Signed]) -> list[Finding]:
    """What the signatures prove."""
    if not signatures:
        advice = "make a key with `vashsender dkim new`, or let the relay sign"
        return [Finding("DKIM", Verdict.WRONG, "the email has no signature", advice)]
    findings = []
    for one in signatures:
        name = f"DKIM {one.selector}"
        if not one.wrong:
            findings.append(Finding(name, Verdict.OK, f"the signature of {one.domain} is good"))
            continue
        verdict = Verdict.UNKNOWN if one.may_change else Verdict.WRONG
        advice = f"`vashsender doctor domain {one.domain}` compares the key; else the relay changes the email"
        findings.append(Finding(name, verdict, f"{one.domain}: {one.wrong}", advice, may_change=one.may_change))
    return findings


async def _dmarc(dns: Dns, arrived: Arrived, spf_passed: bool, signatures: Sequence[Signed]) -> Finding:
    domain = parseaddr(str(_parsed(arrived.message).get("from", "")))[1].rpartition("@")[2].lower()
    author = await discover(dns, domain)
    if author.record is None:
        return Finding("DMARC", Verdict.WRONG, f"{domain} has no record", "`vashsender doctor domain` says which")
    by = []
    envelope = arrived.sender.rpartition("@")[2]
    if spf_passed and envelope and await is_aligned(dns, author, envelope, strict=author.record.strict_spf):
        by.append("SPF")
    by += [
        f"DKIM of {one.domain}"
        for one in signatures
        if not one.wrong and await is_aligned(dns, author, one.domain, strict=author.record.strict_dkim)
    ]
    if by:
        return Finding("DMARC", Verdict.OK, f"pass for {domain} (p={author.policy}) by {' and '.join(by)}")
    unsure = arrived.address is None or any(one.may_change for one in signatures)
    verdict = Verdict.UNKNOWN if unsure else Verdict.WRONG
    advice = "sign with the domain in From, or let the envelope's domain be below the same organizational domain"
    return Finding("DMARC", verdict, f"nothing that passed is aligned with {domain} (p={author.policy})", advice)


async def _guarded(name: str, finding: Awaitable[Finding]) -> Finding:
    try:
        return await finding
    except DnsError as error:
        return Finding(name, Verdict.UNKNOWN, str(error), "try again", may_change=True)


def _parsed(message: bytes) -> Message:
    head = message.partition(b"\r\n\r\n")[0]
    return email.message_from_bytes(head, policy=email.policy.compat32)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
