"""One import on its way: bytes are read, parsed beside the event loop, and stored in chunks while more arrive."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.formats.new_recipient import NewRecipient
from services.api.formats.parser import LineProblem, Parsed, Parser
from services.api.usecases import import_rows
from services.api.usecases.errors import StoppingError, TooLargeError, TooSlowError
from services.api.usecases.import_rows import Progress
from services.api.usecases.store import Target, store
from shared.ledger.database import Ledger

PIECE_BYTES = 256 * 1024
"""Parsed at a time: some 20 ms of work in a thread."""
PATIENCE_SECONDS = 5.0
"""A slow upload is parsed and stored at least this often, so that what has arrived counts as progress."""
PIECES_AHEAD = 2
CHUNK_BYTES = 4_000_000
MAX_PROBLEMS = 1000
ERASED = "This person was erased, and gets no emails."


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an import."""

    max_bytes: int
    advice: str  # to a client whose file is larger
    idle_seconds: float  # without a byte, after which the import fails
    chunk_rows: int  # stored in one transaction
    stopping: asyncio.Event  # set when this process begins to stop


class Importer:
    """Takes each piece of a file into the ledger, and counts its rows."""

    def __init__(
        self,
        ledger: Ledger,
        target: Target,
        parser: Parser,
        limits: Limits,
        renew: Callable[[AsyncConnection], Awaitable[None]] | None,
    ) -> None:
        """`renew` is called in the transaction of every chunk."""
        self._ledger = ledger
        self._target = target
        self._parser = parser
        self._limits = limits
        self._renew = renew
        self._pieces: asyncio.Queue[Parsed | None] = asyncio.Queue(PIECES_AHEAD)
        self._problems: list[LineProblem] = []
        self._accepted = 0
        self._duplicates = 0
        self._invalid = 0

    async def run(self, blocks: AsyncIterator[bytes]) -> None:
        """Reads the file to its end and stores its rows. Raises what the parser and the database raise, TooLargeError,
        TooSlowError, StoppingError and ImportEndedError."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                await self._read(blocks)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def counts(self) -> dict[str, Any]:
        """The columns of the import that say how far it is."""
        problems = [
            {name: value for name, value in asdict(problem).items() if value is not None}
            for problem in sorted(self._problems, key=lambda problem: problem.line)
        ]
        return {
            "lines": self._accepted + self._duplicates + self._invalid,
            "accepted": self._accepted,
            "duplicates": self._duplicates,
            "invalid": self._invalid,
            "problems": orjson.dumps(problems).decode(),
        }

    async def _read(self, blocks: AsyncIterator[bytes]) -> None:
        buffer = bytearray()
        size = 0
        parsed_at = monotonic()
        while block := await self._next(blocks):
            size += len(block)
            if size > self._limits.max_bytes:
                raise TooLargeError(self._limits.max_bytes, self._limits.advice)
            buffer += block
            if len(buffer) >= PIECE_BYTES or monotonic() - parsed_at > PATIENCE_SECONDS:
                await self._pieces.put(await asyncio.to_thread(self._parser.feed, bytes(buffer)))
                buffer.clear()
                parsed_at = monotonic()
        await self._pieces.put(await asyncio.to_thread(self._parser.feed, bytes(buffer)))
        await self._pieces.put(await asyncio.to_thread(self._parser.finish))
        await self._pieces.put(None)

    async def _next(self, blocks: AsyncIterator[bytes]) -> bytes:
        """The next block that is not empty; empty at the end."""
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                block = await anext(blocks, b"")
        except TimeoutError:
            detail = f"Nothing arrived for {self._limits.idle_seconds:g} s. Nothing was imported; repeat the request."
            raise TooSlowError(detail) from None
        if block and self._limits.stopping.is_set():
            raise StoppingError("The server was stopped while it arrived. Nothing was imported; repeat the request.")
        return block

    async def _write(self) -> None:
        size = self._limits.chunk_rows
        rows: list[NewRecipient] = []
        stored_at = monotonic()
        while (parsed := await self._pieces.get()) is not None:
            self._invalid += len(parsed.problems)
            self._note(parsed.problems)
            rows += parsed.rows
            while len(rows) >= size or (rows and (self._are_large(rows) or monotonic() - stored_at > PATIENCE_SECONDS)):
                await self._store(rows[:size])
                del rows[:size]
                stored_at = monotonic()
        if rows:
            await self._store(rows)

    @staticmethod
    def _are_large(rows: list[NewRecipient]) -> bool:
        """Stored before there are `chunk_rows` of them, so that an import of recipients with much data needs little
        memory."""
        return sum(len(row.data) for row in rows if row.data is not None) > CHUNK_BYTES

    async def _store(self, rows: list[NewRecipient]) -> None:
        unique = {row.key: row for row in reversed(rows)}  # keeps the first of several
        repeated = [row.line for row in rows if unique[row.key] is not row]
        chosen = sorted(unique.values(), key=lambda row: row.line)
        async with self._ledger.write() as connection:
            await import_rows.hold(connection, self._target.import_id)
            if self._renew is not None:
                await self._renew(connection)
            stored = await store(connection, self._target, chosen, MAX_PROBLEMS - len(self._problems))
            made = Progress(self._accepted + stored.accepted, stored.first_id, stored.last_id)
            await import_rows.progress(connection, self._target.import_id, made)
        self._accepted += stored.accepted
        self._invalid += len(stored.erased)
        self._duplicates += len(rows) - stored.accepted - len(stored.erased)
        self._note([LineProblem(line, ERASED) for line in stored.erased])
        self._note([LineProblem(line, "This address is in the campaign already.") for line in stored.duplicates])
        self._note([LineProblem(line, "This address is in the file already.") for line in repeated])

    def _note(self, problems: list[LineProblem]) -> None:
        self._problems += problems[: MAX_PROBLEMS - len(self._problems)]
