"""Replies without what only one email has, so that the same refusal of many recipients is one text."""

import re

_ADDRESS = re.compile(r"<?[^\s<>@]+@[^\s<>@]+\.?>?")
_PECULIAR = re.compile(r"\b(?=\w*\d)\w{6,}\b|\b\d{4,}\b")
"""Words that only one email has: queue ids, times, counters."""


def general(reply: str) -> str:
    """A reply without what only one email has: addresses, queue ids, long numbers."""
    return _PECULIAR.sub("…", without_addresses(reply)).strip()


def without_addresses(text: str) -> str:
    """A text with `…` for each address in it."""
    return _ADDRESS.sub("…", text)
