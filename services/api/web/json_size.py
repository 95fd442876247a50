"""How many values a JSON body has, counted before it is parsed.

Parsing holds up all other requests, in any thread, and a million small values take longer than megabytes of text."""

from services.api.web.problems import HttpError

MOST_VALUES = 100_000
"""Members and items in all; the longest list that is allowed, 10,000 suppressions, has fewer. Parsed in about 25 ms."""
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


def check_values(body: bytes) -> None:
    """Raises TooManyValuesError. Commas and brackets inside strings do not count."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= MOST_VALUES:
        return
    # Without escaped characters, every second piece between quotes is outside of strings.
    plain = body.replace(_BACKSLASH * 2, b"").replace(_BACKSLASH + _QUOTE, b"")
    if plain.count(_QUOTE) > 4 * MOST_VALUES:
        raise TooManyValuesError
    outside = b"".join(plain.split(_QUOTE)[::2])
    if outside.count(b",") + outside.count(b"[") + outside.count(b"{") > MOST_VALUES:
        raise TooManyValuesError
