"""One import on its way: bytes are read, parsed beside the event loop, and stored in chunks while the next arrive."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from time import monotonic
from typing import Any
from uuid import UUID

from services.api import import_rows
from services.api.context import Api
from services.api.formats.parser import LineProblem, Parsed, Parser
from services.api.idempotency import Once
from services.api.problems import Problem, too_large
from services.api.rows import Row
from services.api.store import store

PIECE_BYTES = 256 * 1024
"""Parsed at a time: some 20 ms of work in a thread."""
PATIENCE_SECONDS = 5.0
"""A slow upload is parsed and stored at least so often: what arrived counts as progress."""
PIECES_AHEAD = 2
MAX_PROBLEMS = 1000


class Importer:
    """Counts of the rows seen so far, and the way of each piece into the ledger."""

    def __init__(self, api: Api, campaign_id: UUID, import_id: int, parser: Parser, once: Once) -> None:
        self._api = api
        self._campaign_id = campaign_id
        self._import_id = import_id
        self._parser = parser
        self._once = once
        self._pieces: asyncio.Queue[Parsed | None] = asyncio.Queue(PIECES_AHEAD)
        self._problems: list[LineProblem] = []
        self._hash = hashlib.sha256()
        self._accepted = 0
        self._duplicates = 0
        self._invalid = 0

    async def run(self, body: AsyncIterator[bytes], max_bytes: int) -> None:
        """Reads the body to its end and stores its rows. Raises MalformedError, UnknownFieldError, Problem,
        ImportEndedError, and what the database raises."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                await self._read(body, max_bytes)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    @property
    def body_digest(self) -> bytes:
        return self._hash.digest()

    @property
    def accepted(self) -> int:
        return self._accepted

    def counts(self) -> dict[str, Any]:
        """The columns of the import that tell how far it is."""
        problems = [
            {name: value for name, value in asdict(problem).items() if value is not None}
            for problem in sorted(self._problems, key=lambda problem: problem.line)
        ]
        return {
            "lines": self._accepted + self._duplicates + self._invalid,
            "accepted": self._accepted,
            "duplicates": self._duplicates,
            "invalid": self._invalid,
            "problems": import_rows.problems_json(problems),
        }

    async def _read(self, body: AsyncIterator[bytes], max_bytes: int) -> None:
        timeout = self._api.settings.import_timeout_seconds
        buffer = bytearray()
        size = 0
        parsed_at = monotonic()
        while True:
            try:
                async with asyncio.timeout(timeout):
                    block = await anext(body, b"")
            except TimeoutError:
                detail = f"Nothing arrived for {timeout:g} s. Nothing was imported; repeat the request."
                raise Problem(408, "too-slow", "The upload stood still", detail) from None
            if not block:
                break
            if self._api.stopping.is_set():
                raise Problem(503, "stopping", "The server is stopping", "Nothing was imported; repeat the request.")
            size += len(block)
            if size > max_bytes:
                raise too_large(max_bytes, "Split the list: a campaign takes any number of imports.")
            self._hash.update(block)
            buffer += block
            if len(buffer) >= PIECE_BYTES or monotonic() - parsed_at > PATIENCE_SECONDS:
                await self._pieces.put(await asyncio.to_thread(self._parser.feed, bytes(buffer)))
                buffer.clear()
                parsed_at = monotonic()
        await self._pieces.put(await asyncio.to_thread(self._parser.feed, bytes(buffer)))
        await self._pieces.put(await asyncio.to_thread(self._parser.finish))
        await self._pieces.put(None)

    async def _write(self) -> None:
        size = self._api.settings.import_chunk_rows
        rows: list[Row] = []
        stored_at = monotonic()
        while (parsed := await self._pieces.get()) is not None:
            self._invalid += len(parsed.problems)
            self._note(parsed.problems)
            rows += parsed.rows
            while len(rows) >= size or (rows and monotonic() - stored_at > PATIENCE_SECONDS):
                await self._store(rows[:size])
                del rows[:size]
                stored_at = monotonic()
        if rows:
            await self._store(rows)

    async def _store(self, rows: list[Row]) -> None:
        unique = {row.key: row for row in reversed(rows)}  # the first of several stays
        repeated = [row.line for row in rows if unique[row.key] is not row]
        chosen = sorted(unique.values(), key=lambda row: row.line)
        async with self._api.ledger.write() as connection:
            await import_rows.hold(connection, self._import_id)
            await self._once.renew(connection)
            stored = await store(
                connection, self._campaign_id, self._import_id, chosen, MAX_PROBLEMS - len(self._problems)
            )
            await import_rows.progress(
                connection,
                self._import_id,
                first_id=stored.first_id,
                last_id=stored.last_id,
                accepted=self._accepted + stored.accepted,
            )
        self._accepted += stored.accepted
        self._duplicates += len(rows) - stored.accepted
        self._note([LineProblem(line, "This address is in the campaign already.") for line in stored.duplicates])
        self._note([LineProblem(line, "This address is in the file already.") for line in repeated])

    def _note(self, problems: list[LineProblem]) -> None:
        self._problems += problems[: MAX_PROBLEMS - len(self._problems)]
