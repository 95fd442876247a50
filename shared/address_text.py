"""Addresses in texts that others wrote, such as the replies of relays: found, and taken out."""

import re
from functools import cached_property

from sqlalchemy import ColumnElement, SQLColumnExpression, func, or_

from shared.addresses import Address

GONE = "(erased)"

_BEFORE = r"(?<![\w.-])"
_AFTER = r"(?![\w-]|\.\w)"


class Mentions:
    """How texts may name one address: as it is, with its domain in its own script, as xtext (RFC 3461, section 4), or
    as part of an envelope address (`bounce+ann=example.com@...`). Case does not matter."""

    def __init__(self, address: Address) -> None:
        local, _, domain = address.key.rpartition("@")
        domains = {domain, _in_own_script(domain)}
        xtext = local.replace("+", "+2b").replace("=", "+3d")
        self._local = local
        self._domains = sorted(domains)
        self._forms = sorted({f"{one}@{part}" for one in (local, xtext) for part in domains}, key=len, reverse=True)

    def found_in(self, column: SQLColumnExpression[str]) -> ColumnElement[bool]:
        """Whether a column may name the address; `without` decides. SQLite compares only ASCII without case."""
        local = self._local if self._local.isascii() else ""
        needles = {f"{local}{sign}{domain}" for sign in "@=" for domain in self._domains if domain.isascii()}
        needles |= {f"@{domain}" for domain in self._domains if not domain.isascii()}
        needles |= {f"@{domain}" for domain in self._domains if "+" in local or "=" in local}
        lowered = func.lower(column)
        return or_(*(lowered.contains(needle, autoescape=True) for needle in sorted(needles)))

    def without(self, text: str) -> str:
        """The text without the address."""
        return self._pattern.sub(GONE, text)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        plain = "|".join(map(re.escape, self._forms))
        in_envelope = "|".join(re.escape(f"{self._local}={domain}") for domain in self._domains)
        return re.compile(f"{_BEFORE}(?:{plain}){_AFTER}|(?<!\\w)(?:{in_envelope})(?![\\w-])", re.IGNORECASE)


def without_address(text: str, email: str) -> str:
    """The text without an address, as SMTP sends it."""
    return Mentions(Address(email, email.lower())).without(text) if email else text


def _in_own_script(domain: str) -> str:
    """A domain of A-labels in its own script (IDNA); as it is, if it has none."""
    if "xn--" not in domain:
        return domain
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain
