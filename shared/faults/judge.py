"""Finds the row of the table that fits a reply."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

from shared.faults.meaning import Consequence, Fault
from shared.faults.table import NOT_A_REFUSAL, TABLE, Row
from shared.relays.replies import Stage

MOST_CHARACTERS = 1000
"""Of a reply that are looked at: a server may send 64 KB."""

ID_CHARACTERS = 13
"""A word of this length or more that holds a digit is an id, an address or a server's name."""

_DIGITS = re.compile(r"\d+")
_ENHANCED = re.compile(r"(?:^|#)([245])\.(\d{1,3})\.(\d{1,3})(?!\d)")
_LINE_CODE = re.compile(r"^(?:\d{3}[ -])?[245]\.\d{1,3}\.\d{1,3}(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the table says of one reply."""

    consequence: Consequence
    #: What the server means by it, for people.
    why: str
    #: Several recipients of one provider with this mean that the provider refuses us.
    suspect_provider: bool

    @property
    def fault(self) -> Fault:
        """Whose fault it is."""
        return self.consequence.fault


def judge(stage: Stage, code: int, text: str, enhanced: str | None = None) -> Judgement:
    """Judges a refusal: the basic code, the text without it (lines joined by LF), and the enhanced code if it is known
    from elsewhere (a report's Status field; then `code` may be 0)."""
    return _judgements(row_for(stage, code, text, enhanced))


def row_for(stage: Stage, code: int, text: str, enhanced: str | None = None) -> Row:
    """The row of the table that decides. A code outside 4xx and 5xx where a refusal stood is the relay's confusion."""
    text = text[:MOST_CHARACTERS]
    enhanced = enhanced or enhanced_code(code, text)
    if not code and enhanced:
        code = 100 * int(enhanced[0])
    if not 400 <= code <= 599:
        return NOT_A_REFUSAL
    return _find(stage, code, enhanced or "none", normalised(text))


def enhanced_code(code: int, text: str) -> str | None:
    """The enhanced code (RFC 2034) of the class of `code`: at the start, or behind `#` as qmail writes it."""
    for match in _ENHANCED.finditer(text):
        if not code or int(match[1]) == code // 100:
            return f"{match[1]}.{match[2]}.{match[3]}"
    return None


def normalised(text: str) -> str:
    """The words alone: one line, lower case, no accents, no codes, addresses or ids; of a link only its host.

    So the same refusal of two recipients gives the same words.
    """
    text = _LINE_CODE.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(character for character in text if not unicodedata.combining(character)).replace("’", "'")
    return f" {' '.join(filter(None, map(_shortened, text.casefold().split())))} "


def _shortened(token: str) -> str:
    if "@" in token:
        token = token.rpartition(":")[2]  # `ann@example.com:user` in qmail's replies
        return "" if "@" in token else token
    if "://" in token:
        token = token.partition("://")[2].partition("/")[0]
    if _DIGITS.search(token) is None:
        return token
    return _DIGITS.sub("0", token) if len(token) < ID_CHARACTERS else ""


@lru_cache(maxsize=4096)
def _find(stage: Stage, code: int, enhanced: str, words: str) -> Row:
    for row, fits_codes, phrases in _compiled():
        if stage in row.stages and fits_codes(code, enhanced) and (not phrases or _says(words, phrases)):
            return row
    raise AssertionError(f"no row for {stage} {code}")  # the last rows take everything: see the test


def _says(words: str, phrases: tuple[tuple[str, ...], ...]) -> bool:
    for first, *rest in phrases:
        at = words.find(first)  # linear, and so is the whole
        if at >= 0 and (not rest or _follow(words, at + len(first), rest)):
            return True
    return False


def _follow(words: str, at: int, parts: list[str]) -> bool:
    """Whether the parts stand behind `at` one after another."""
    for part in parts:
        at = words.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@cache
def _compiled() -> tuple[tuple[Row, Callable[[int, str], bool], tuple[tuple[str, ...], ...]], ...]:
    return tuple((row, _code_test(row), tuple(_parts(phrase) for phrase in row.words)) for row in TABLE)


def _parts(phrase: str) -> tuple[str, ...]:
    begins = " " if phrase.startswith(" ") else ""
    ends = " " if phrase.endswith(" ") else ""
    middle = normalised(phrase.replace(" ... ", " \0 ")).strip()
    return tuple(f"{begins}{middle}{ends}".split(" \0 "))


def _code_test(row: Row) -> Callable[[int, str], bool]:
    """Whether a basic and an enhanced code fit a row."""
    codes = frozenset(code for token in row.code.split() for code in _basic(token))
    enhanced = tuple(_enhanced(token) for token in row.enhanced.split())

    def fits(code: int, found: str) -> bool:
        if codes and code not in codes:
            return False
        return not enhanced or any(fits_one(found) for fits_one in enhanced)

    return fits


def _basic(token: str) -> range:
    digits = token.rstrip("x")
    scale = 10 ** (len(token) - len(digits))
    return range(int(digits) * scale, (int(digits) + 1) * scale)


def _enhanced(token: str) -> Callable[[str], bool]:
    if token == "none":
        return lambda found: found == "none"
    kind, subject, detail = token.split(".")
    first, _, last = detail.partition("-")

    def fits(found: str) -> bool:
        if found == "none":
            return False
        found_kind, found_subject, found_detail = found.split(".")
        if kind not in ("x", found_kind) or subject != found_subject:
            return False
        return detail == "*" or int(first) <= int(found_detail) <= int(last or first)

    return fits


@cache
def _judgements(row: Row) -> Judgement:
    blocked_or_held = row.consequence in (Consequence.HOLD, Consequence.REROUTE)
    return Judgement(row.consequence, row.why, row.suspect_provider or blocked_or_held)
