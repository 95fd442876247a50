"""Exports: lines of CSV, which a spreadsheet opens safely, or of NDJSON, as a stream of pages."""

import csv
import io
import zlib
from asyncio import create_task, sleep
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from services.api.shapes.common import moment
from shared.ledger.direct import AnyRow
from shared.tasks import end_all

Rows = Sequence[AnyRow]
Format = Literal["csv", "ndjson"]

MEDIA = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
PART_ROWS, PART_LENGTH = 500, 100_000
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


def written(seconds: float) -> str:
    """A moment of the ledger as in JSON, in half the time of `isoformat`."""
    return orjson.dumps(moment(seconds), option=orjson.OPT_UTC_Z)[1:-1].decode()


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
    cells: Callable[[AnyRow], Sequence[object]]
    #: A row as a JSON object, for NDJSON.
    fields: Callable[[AnyRow], dict[str, object]]
    #: About how many characters of text of any length a row has.
    length: Callable[[AnyRow], int]

    def write(self, rows: Rows, file_format: Format) -> bytes:
        if file_format == "csv":
            return csv_lines(map(self.cells, rows)).encode()
        return b"".join(orjson.dumps(self.fields(row), option=_NDJSON) for row in rows)


_NDJSON = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


async def lines(
    table: Table, read: Callable[[int], Coroutine[Any, Any, Rows]], file_format: Format
) -> AsyncGenerator[bytes, None]:
    """Lines of CSV with a header, or of NDJSON. `read` returns some of the rows by id after the one with this id; none
    if there are no more. The next ones are read while the last ones are written, and no others."""
    if file_format == "csv":
        yield csv_lines([table.columns]).encode()
    reading = create_task(read(0))
    try:
        while rows := await reading:
            reading = create_task(read(rows[-1].id))
            for part in _parts(rows, table.length):
                yield table.write(part, file_format)
                await sleep(0)
    finally:
        await end_all([reading])


def _parts(rows: Rows, length: Callable[[AnyRow], int]) -> Iterator[Rows]:
    part: list[AnyRow] = []
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
