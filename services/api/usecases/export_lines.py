"""Exports: lines of CSV, which a spreadsheet opens safely, or of NDJSON, as a stream of pages."""

import csv
import io
import zlib
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import Row

Rows = Sequence[Row[Any]]
Format = Literal["csv", "ndjson"]

MEDIA = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
PART_ROWS, PART_LENGTH = 200, 100_000
"""Rows written at once, and the length after which there are no more. Other requests run in between."""
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


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows of an export are written."""

    columns: Sequence[str]
    #: The cells of a row, for CSV.
    cells: Callable[[Row[Any]], Sequence[object]]
    #: A row as a JSON object, for NDJSON.
    fields: Callable[[Row[Any]], dict[str, object]]
    #: About how many characters of text of any length a row has.
    length: Callable[[Row[Any]], int]

    def write(self, rows: Rows, file_format: Format) -> bytes:
        if file_format == "csv":
            return csv_lines(map(self.cells, rows)).encode()
        return b"".join(orjson.dumps(self.fields(row), option=_NDJSON) for row in rows)


_NDJSON = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


async def lines(table: Table, read: Callable[[int], Awaitable[Rows]], file_format: Format) -> AsyncIterator[bytes]:
    """Lines of CSV with a header, or of NDJSON. `read` returns some of the rows by id after the one with this id; none
    if there are no more. It is not called before what was read is taken."""
    if file_format == "csv":
        yield csv_lines([table.columns]).encode()
    after = 0
    while rows := await read(after):
        for part in _parts(rows, table.length):
            yield table.write(part, file_format)
            await sleep(0)
        after = rows[-1].id


def _parts(rows: Rows, length: Callable[[Row[Any]], int]) -> Iterator[Rows]:
    part: list[Row[Any]] = []
    whole = 0
    for row in rows:
        part.append(row)
        whole += length(row)
        if len(part) >= PART_ROWS or whole >= PART_LENGTH:
            yield part
            part, whole = [], 0
    if part:
        yield part


async def gzipped(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same stream as one gzip file."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_BITS)
    async for part in parts:
        if packed := packer.compress(part):
            yield packed
    yield packer.flush()
