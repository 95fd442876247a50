"""Questions to DNS, bounded in time and number. Imports dnspython for the first: few services ask any."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from dns.nameserver import Do53Nameserver

QUESTION_SECONDS = 3.0
MOST_QUESTIONS = 100
"""Of one check: SPF needs at most 10 lookups and their addresses for each address of a relay."""
LONGEST_TXT_BYTES = 4096
"""What a domain publishes is read by its owner's tenants and by us: a longer one would only cost time."""
PORT = 53

Address = IPv4Address | IPv6Address


class DnsError(UnavailableError):
    """DNS gave no answer to a question: a timeout, SERVFAIL, or too many questions."""


class Dns:
    """The answers to one check. Each question is asked once. A name that does not exist has no records."""

    def __init__(self, servers: str = "") -> None:
        """`servers`: `ADDRESS` or `ADDRESS:PORT`, separated by commas; empty: the system's. Raises
        ConfigurationError."""
        from dns.asyncresolver import Resolver
        from dns.resolver import NoResolverConfiguration

        try:
            self._resolver = Resolver(configure=not servers)
        except NoResolverConfiguration as error:
            raise ConfigurationError(f"this machine has no DNS server: {error}. Set VASHSENDER_DNS_SERVERS.") from None
        if servers:
            self._resolver.nameservers = [_server(text.strip()) for text in servers.split(",") if text.strip()]
        self._resolver.lifetime = QUESTION_SECONDS
        self._resolver.timeout = QUESTION_SECONDS / 2
        self._asked: dict[tuple[str, str], Sequence[Any]] = {}

    async def txt(self, name: str) -> list[str]:
        """Texts, each with its strings joined without spaces (RFC 7208, 3.3; RFC 6376, 3.6.2.2)."""
        texts = [b"".join(record.strings) for record in await self._ask(name, "TXT")]
        if any(len(text) > LONGEST_TXT_BYTES for text in texts):
            raise DnsError(f"a TXT record of {name} is longer than {LONGEST_TXT_BYTES} bytes")
        return [text.decode("utf-8", "replace") for text in texts]

    async def addresses(self, name: str, version: int) -> list[Address]:
        """IPv4 or IPv6 addresses."""
        return [ip_address(record.address) for record in await self._ask(name, "A" if version == 4 else "AAAA")]

    async def mx(self, name: str) -> list[str]:
        """Mail exchangers by preference; a lone `.` says that there are none (RFC 7505)."""
        records = sorted(await self._ask(name, "MX"), key=lambda record: int(record.preference))
        return [str(record.exchange).rstrip(".") or "." for record in records]

    async def ptr(self, address: Address) -> list[str]:
        """Names of an address."""
        from dns.reversename import from_address

        name = from_address(str(address)).to_text()
        return [str(record.target).rstrip(".") for record in await self._ask(name, "PTR")]

    async def _ask(self, name: str, kind: str) -> Sequence[Any]:
        key = (name.rstrip(".").lower(), kind)
        if key not in self._asked:
            if len(self._asked) >= MOST_QUESTIONS:
                raise DnsError(f"this check needs more than {MOST_QUESTIONS} questions to DNS")
            self._asked[key] = await self._answer(*key)
        return self._asked[key]

    async def _answer(self, name: str, kind: str) -> Sequence[Any]:
        from dns.exception import DNSException, Timeout
        from dns.exception import SyntaxError as DnsSyntaxError
        from dns.name import EmptyLabel, LabelTooLong, NameTooLong
        from dns.resolver import NXDOMAIN, NoAnswer

        try:
            async with asyncio.timeout(QUESTION_SECONDS + 1):
                answer = await self._resolver.resolve(f"{name}.", kind, search=False)
        except (NXDOMAIN, NoAnswer):
            return ()
        except (DnsSyntaxError, LabelTooLong, NameTooLong, EmptyLabel):
            return ()  # no name of DNS, so nothing is there
        except (DNSException, OSError, TimeoutError) as error:
            reason = "no answer in time" if isinstance(error, Timeout | TimeoutError) else "no answer"
            raise DnsError(f"DNS: {reason} about {kind} of {name}") from error
        return list(answer)


def _server(text: str) -> "Do53Nameserver":
    from dns.nameserver import Do53Nameserver

    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, str(PORT)
    try:
        address, number = ip_address(host.strip("[]")), int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65_536:
        raise ConfigurationError(
            f"VASHSENDER_DNS_SERVERS: {text!r} is not ADDRESS or ADDRESS:PORT, such as 192.0.2.1 or [2001:db8::1]:53"
        )
    return Do53Nameserver(str(address), number)
