"""Text from outside on a terminal: what it would obey instead of showing is written as an escape, such as `\\x1b`."""

import re

# Controls but tab and line feed, half characters, line separators, and signs that change the direction of text.
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_OBEYED}]")
_IN_A_LINE = re.compile(f"[\t\n{_OBEYED}]")


def visible(text: str) -> str:
    """A text of any number of lines."""
    return _IN_TEXT.sub(_escaped, text)


def visible_in_a_line(text: str) -> str:
    """A text as one line, without tabs."""
    return _IN_A_LINE.sub(_escaped, text)


def visible_json(document: str) -> str:
    """The same JSON, in which nothing is obeyed."""
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    sign = ord(found[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(sign)
    return short or (f"\\x{sign:02x}" if sign < 256 else f"\\u{sign:04x}")
