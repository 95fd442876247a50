"""How many values a JSON body has, counted before it is parsed.

Parsing holds up all other requests, in any thread, and a million small values take longer than megabytes of text."""

from asyncio import sleep

from services.api.web.problems import HttpError

MOST_VALUES = 60_000
"""Members and items in all; the longest list that is allowed, 10,000 suppressions, has fewer. Parsed in about 20 ms."""
_QUOTE, _BACKSLASH = b'"', b"\\"


class TooManyValuesError(HttpError):
    status = 413
    kind = "too-many-values"
    title = "The body has too many values"

    def __init__(self) -> None:
        super().__init__(
            f"A JSON body may have {MOST_VALUES:,} members and items. Import recipients as NDJSON or CSV instead.",
            limit=MOST_VALUES,
        )


async def check_values(body: bytes) -> None:
    """Raises TooManyValuesError. Commas and brackets inside strings do not count. Other requests run between the steps,
    each of which takes some 20 ms of a body of 10 MB at most."""
    if await _values(body) <= MOST_VALUES:
        return
    # Without escaped characters, every second piece between quotes is outside of strings.
    unescaped = body.replace(_BACKSLASH * 2, b"")
    await sleep(0)
    plain = unescaped.replace(_BACKSLASH + _QUOTE, b"")
    await sleep(0)
    if plain.count(_QUOTE) > 4 * MOST_VALUES:
        raise TooManyValuesError
    outside = b"".join(plain.split(_QUOTE)[::2])
    if await _values(outside) > MOST_VALUES:
        raise TooManyValuesError


async def _values(text: bytes) -> int:
    found = text.count(b",") + text.count(b"[") + text.count(b"{")
    await sleep(0)
    return found
