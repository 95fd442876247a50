"""Exports are written in parts while the next rows are read, and no more of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

from services.api.usecases import export_lines
from services.api.usecases.export_lines import Rows, Table, cell

SLICE, LAST = 3, 8
TABLE = Table(("id", "email"), lambda row: row, lambda row: {"id": row.id, "email": row.email}, lambda row: 0)


class Source:
    """Rows 1 to LAST, three at a time. `reads`: after which ids they were read; `began` and `ended`: one for each."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.began, self.ended = asyncio.Queue[int](), asyncio.Queue[int]()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def read(self, after: int) -> Rows:
        self.reads.append(after)
        self.began.put_nowait(after)
        try:
            await self.may_read.wait()
            return rows(range(after + 1, min(after + SLICE, LAST) + 1))
        finally:
            self.ended.put_nowait(after)


def rows(ids: Sequence[int]) -> Rows:
    columns = SimpleResultMetaData(["id", "email"])
    found: IteratorResult[*tuple[Any, ...]] = IteratorResult(columns, iter([(one, f"p{one}@x") for one in ids]))
    return found.all()


async def test_all_rows_are_written_in_order() -> None:
    parts = [part async for part in export_lines.lines(TABLE, Source().read, "csv")]
    assert b"".join(parts).decode().splitlines() == ["id,email", *(f"{n},p{n}@x" for n in range(1, LAST + 1))]


async def test_one_slice_is_read_ahead_and_no_more() -> None:
    source = Source()
    lines = export_lines.lines(TABLE, source.read, "ndjson")
    assert (await anext(lines)).startswith(b'{"id":1,')
    assert [await source.ended.get() for _ in range(2)] == [0, SLICE]
    await asyncio.sleep(0)  # lets another read begin, if there was one
    assert source.reads == [0, SLICE]
    await lines.aclose()


async def test_a_read_ends_when_the_reader_leaves() -> None:
    """It would hold a connection of the pool."""
    source = Source()
    lines = export_lines.lines(TABLE, source.read, "ndjson")
    await anext(lines)
    source.may_read.clear()
    assert [await source.began.get() for _ in range(2)] == [0, SLICE]
    assert source.ended.qsize() == 1
    await lines.aclose()
    assert source.ended.qsize() == 2


def test_text_that_a_spreadsheet_takes_for_a_formula_is_quoted() -> None:
    assert [cell(text) for text in ("=1+1", "@x", "a=b", "", None)] == ["'=1+1", "'@x", "a=b", "", ""]
