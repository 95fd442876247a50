"""SPF: may this address send for this domain? (RFC 7208, section 4)."""

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from shared.deliverability.dns import Address, Dns, DnsError
from shared.deliverability.spf_record import Directive, SpfSyntaxError, expand, is_spf, parse

MOST_LOOKUPS = 10  # terms that ask DNS; RFC 7208, 4.6.4
MOST_NAMES = 10  # of one mx or ptr
MOST_VOID = 2  # lookups without an answer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spf:
    """The result of one check."""

    result: str  # `pass`, `fail`, `softfail`, `neutral`, `none`, `temperror`, `permerror`
    reason: str = ""
    lookups: int = 0  # terms that asked DNS


class _PermError(Exception):
    pass


async def check_host(dns: Dns, address: Address, domain: str, sender: str, helo: str = "unknown") -> Spf:
    """`sender` is the envelope sender, or empty for a bounce. Raises nothing: DNS without an answer is `temperror`."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    evaluation = _Evaluation(dns, address, sender if "@" in sender else f"postmaster@{sender or helo}", helo)
    try:
        result, reason = await evaluation.check(domain)
    except _PermError as error:
        result, reason = "permerror", str(error)
    except SpfSyntaxError as error:
        result, reason = "permerror", str(error)
    except DnsError as error:
        result, reason = "temperror", str(error)
    return Spf(result, reason, evaluation.lookups)


class _Evaluation:
    """One check with its limits, which hold across all included records."""

    def __init__(self, dns: Dns, address: Address, sender: str, helo: str) -> None:
        self._dns = dns
        self._address = address
        self._sender = sender
        self._helo = helo
        self.lookups = 0
        self._void = 0

    async def check(self, domain: str) -> tuple[str, str]:
        if not _is_domain(domain):
            return "none", f"{domain[:80]!r} is no domain"
        records = [text for text in await self._dns.txt(domain) if is_spf(text)]
        if not records:
            return "none", f"{domain} has no SPF record"
        if len(records) > 1:
            raise _PermError(f"{domain} has {len(records)} SPF records")
        record = parse(records[0])
        for directive in record.directives:
            if await self._matches(directive, domain):
                return directive.result, f"{directive} in the record of {domain}"
        if record.redirect is None:
            return "neutral", f"no term of the record of {domain} matches"
        self._count()
        target = await self._expand(record.redirect, domain)
        result, reason = await self.check(target)
        if result == "none":
            raise _PermError(f"redirect={target}: {reason}")
        return result, reason

    async def _matches(self, directive: Directive, domain: str) -> bool:
        if directive.name == "all":
            return True
        if directive.network is not None:
            return self._address in directive.network
        self._count()
        target = await self._expand(directive.domain, domain) if directive.domain else domain
        match directive.name:
            case "include":
                return await self._includes(target)
            case "a":
                return self._covers(directive, await self._addresses(target, void=True))
            case "mx":
                return await self._is_exchanger(directive, target)
            case "exists":
                return bool(self._noted(await self._dns.addresses(target, 4)))
            case _:
                return any(_is_within(name, target) for name in await self._names(void=True))

    async def _includes(self, target: str) -> bool:
        result, reason = await self.check(target)
        if result == "none":
            raise _PermError(f"include:{target}: {reason}")
        return result == "pass"

    async def _is_exchanger(self, directive: Directive, target: str) -> bool:
        names = self._noted(await self._dns.mx(target))
        if len(names) > MOST_NAMES:
            raise _PermError(f"mx: {target} has more than {MOST_NAMES} mail exchangers")
        for name in names:
            if self._covers(directive, await self._addresses(name)):
                return True
        return False

    async def _names(self, *, void: bool = False) -> list[str]:
        """The names of the address that lead back to it (RFC 7208, 5.5)."""
        try:
            names = await self._dns.ptr(self._address)
        except DnsError:
            return []
        confirmed = []
        for name in (self._noted(names) if void else names)[:MOST_NAMES]:
            with suppress(DnsError):
                if self._address in await self._addresses(name):
                    confirmed.append(name)
        return confirmed

    async def _addresses(self, name: str, *, void: bool = False) -> list[Address]:
        found = await self._dns.addresses(name, self._address.version)
        return self._noted(found) if void else found

    def _noted(self, found: list[T]) -> list[T]:
        if not found:
            self._void += 1
            if self._void > MOST_VOID:
                raise _PermError(f"more than {MOST_VOID} lookups found nothing")
        return found

    def _covers(self, directive: Directive, addresses: list[Address]) -> bool:
        v4 = isinstance(self._address, IPv4Address)
        bits = 32 - directive.prefix4 if v4 else 128 - directive.prefix6
        return any(int(address) >> bits == int(self._address) >> bits for address in addresses)

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > MOST_LOOKUPS:
            raise _PermError(f"it needs more than {MOST_LOOKUPS} lookups")

    async def _name_within(self, domain: str) -> str:
        names = await self._names()
        return next((name for name in names if _is_within(name, domain)), names[0] if names else "unknown")

    async def _expand(self, text: str, domain: str) -> str:
        local, _, sender_domain = self._sender.rpartition("@")
        v4 = isinstance(self._address, IPv4Address)
        dotted = str(self._address) if v4 else ".".join(f"{int(self._address):032x}")
        values = {
            "s": self._sender,
            "l": local,
            "o": sender_domain,
            "d": domain,
            "i": dotted,
            "p": await self._name_within(domain) if "%{p" in text.lower() else "",
            "v": "in-addr" if v4 else "ip6",
            "h": self._helo,
            "c": str(self._address),
            "r": "unknown",
            "t": "0",
        }
        return expand(text, values)


def _is_within(name: str, domain: str) -> bool:
    return f".{name.lower()}".endswith(f".{domain.lower()}")


def _is_domain(name: str) -> bool:
    labels = name.rstrip(".").split(".")
    return len(labels) > 1 and len(name) <= 253 and all(0 < len(label) <= 63 for label in labels)
