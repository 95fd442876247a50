"""The text of an SPF record (RFC 7208, 4.5, 4.6 and 7): its terms, checked as a whole before any is evaluated."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import quote

RESULTS = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}

_VERSION = re.compile(r"v=spf1(?: |$)", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")
_DIRECTIVE = re.compile(r"([-+?~]?)([A-Za-z][A-Za-z0-9]*)(?::(.*?))?((?:/[0-9]+)?(?://[0-9]+)?)", re.DOTALL)
_CIDR = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?")
_MACRO = re.compile(r"%(?:([%_-])|\{([slodipvhcrtSLODIPVHCRT])([1-9][0-9]*|0)?([rR])?([.+,/_=-]*)\})")
_LITERAL = re.compile(r"[!-$&-~]*")
_END = re.compile(
    r"(?:.*\.(?:(?=[0-9]*[A-Za-z])[A-Za-z0-9]+|[A-Za-z0-9]+-[A-Za-z0-9-]*[A-Za-z0-9])\.?|.*%\{[^}]*\})", re.DOTALL
)
_LONGEST_NAME = 253


class SpfSyntaxError(ValueError):
    """A record that cannot be used: PermError. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One mechanism with its qualifier."""

    result: str  # if it matches: `pass`, `fail`, `softfail`, `neutral`
    name: str
    domain: str  # with macros; empty: the domain that is checked
    prefix4: int
    prefix6: int
    network: IPv4Network | IPv6Network | None = None  # of ip4 and ip6

    def __str__(self) -> str:
        return f"{self.name}:{self.network or self.domain}" if self.network or self.domain else self.name


@dataclass(frozen=True, slots=True)
class Record:
    """An SPF record."""

    directives: tuple[Directive, ...]
    redirect: str | None


def is_spf(text: str) -> bool:
    """Whether a TXT record is an SPF record."""
    return _VERSION.match(text) is not None


def parse(text: str) -> Record:
    """Raises SpfSyntaxError."""
    directives, modifiers = [], {}
    for term in text.split(" ")[1:]:
        if not term:
            continue
        if found := _MODIFIER.fullmatch(term):
            name = found[1].lower()
            if name in ("redirect", "exp"):
                if name in modifiers:
                    raise SpfSyntaxError(f"{name}= stands there twice")
                _check_domain(found[2], term)
                modifiers[name] = found[2]
            else:
                _check_macros(found[2], term)
        else:
            directives.append(_directive(term))
    return Record(tuple(directives), modifiers.get("redirect"))


def _directive(term: str) -> Directive:
    found = _DIRECTIVE.fullmatch(term)
    if found is None:
        raise SpfSyntaxError(f"{term[:80]!r} is no term of SPF")
    qualifier, name, value, length = found[1], found[2].lower(), found[3], found[4]
    result = RESULTS[qualifier or "+"]
    if name in ("ip4", "ip6"):
        return Directive(result, name, "", 0, 0, _network(name, f"{value or ''}{length}", term))
    if name not in ("all", "include", "a", "mx", "ptr", "exists"):
        raise SpfSyntaxError(f"{term[:80]!r} is no mechanism of SPF")
    if name not in ("a", "mx"):
        value, length = f"{value}{length}" if value is not None else value, "" if value is not None else length
    if (value is not None if name == "all" else value is None and name in ("include", "exists")) or (
        length and name not in ("a", "mx")
    ):
        raise SpfSyntaxError(f"{term[:80]!r} has a wrong domain or length")
    if value is not None:
        _check_domain(value, term)
    prefix4, prefix6 = _prefixes(length, term)
    return Directive(result, name, value or "", prefix4, prefix6)


def _network(name: str, text: str, term: str) -> IPv4Network | IPv6Network:
    kind = IPv4Network if name == "ip4" else IPv6Network
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if not isinstance(network, kind) or re.search(r"/0[0-9]|/.*[^0-9]", text):
        raise SpfSyntaxError(f"{term[:80]!r} names no {name} network")
    return network


def _prefixes(text: str, term: str) -> tuple[int, int]:
    found = _CIDR.fullmatch(text)
    prefix4, prefix6 = (int(found[1] or 32), int(found[2] or 128)) if found else (33, 129)
    if prefix4 > 32 or prefix6 > 128:
        raise SpfSyntaxError(f"{term[:80]!r} has a wrong length")
    return prefix4, prefix6


def _check_domain(text: str, term: str) -> None:
    _check_macros(text, term)
    if any((found[2] or "").lower() in ("c", "r", "t") for found in _MACRO.finditer(text) if found[2]):
        raise SpfSyntaxError(f"{term[:80]!r} has a macro that only explanations may have")
    if not _END.fullmatch(text):
        raise SpfSyntaxError(f"{term[:80]!r} names no domain")


def _check_macros(text: str, term: str) -> None:
    if not _LITERAL.fullmatch(_MACRO.sub("", text)) or any(found[3] == "0" for found in _MACRO.finditer(text)):
        raise SpfSyntaxError(f"{term[:80]!r} has a wrong macro or character")


def expand(text: str, values: dict[str, str]) -> str:
    """A domain with its macros replaced (RFC 7208, 7.3); from the left shortened to 253 characters."""

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return {"%": "%", "_": " ", "-": "%20"}[found[1]]
        value = values[found[2].lower()]
        parts = re.split(f"[{re.escape(found[5])}]" if found[5] else r"\.", value)
        if found[4]:
            parts.reverse()
        if found[3]:
            parts = parts[-int(found[3]) :]
        joined = ".".join(parts)
        return quote(joined, safe="-._~") if found[2].isupper() else joined

    name = _MACRO.sub(one, text).rstrip(".")
    while len(name) > _LONGEST_NAME and "." in name:
        name = name.partition(".")[2]
    return name
