"""Exports: lines of CSV, which a spreadsheet opens safely, or of NDJSON, as a stream of pages."""

import csv
import io
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Literal

Format = Literal["csv", "ndjson"]

MEDIA = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
GZIP_LEVEL = 1
GZIP_BITS = 31
"""A gzip header and trailer (RFC 1952) around the deflated data."""


def cell(value: object) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULAS) else text


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Lines of CSV (RFC 4180). The cells are written as they are: see `cell`."""
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue()


async def gzipped(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same stream as one gzip file."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_BITS)
    async for part in parts:
        if packed := packer.compress(part):
            yield packed
    yield packer.flush()
