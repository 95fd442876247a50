"""Bodies of bounded length that arrive in bounded time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.types import Message

from services.api.context import Api
from services.api.room import SMALL_BYTES, Room
from services.api.usecases.errors import TooLargeError, TooSlowError
from shared.memory import trim

BLOCK_BYTES = 16_384
"""Parsers get a body in blocks of this length, and other requests run between two blocks."""
LEAST_BYTES_PER_SECOND = 1000

_HOLDS_ROOM = "vashsender.holds_room"
"""In the scope of a request."""


@asynccontextmanager
async def bounded(request: Request, limit_bytes: int, advice: str, api: Api) -> AsyncIterator[Request]:
    """The request; reading more than `limit_bytes` of its body raises TooLargeError with the advice, at once if it says
    how long it is. A body that takes more than `http_body_seconds`, and one for each LEAST_BYTES_PER_SECOND, raises
    TooSlowError. A large body waits for room before it is read, and again before it is worked on, inside the block."""
    body = _Body(request, limit_bytes, advice, api)
    try:
        yield Request(request.scope, body.receive)
    finally:
        body.leave()


class _Body:
    def __init__(self, request: Request, limit_bytes: int, advice: str, api: Api) -> None:
        self._request = request
        self._limit = limit_bytes
        self._advice = advice
        self._seconds = api.settings.http_body_seconds
        self._api = api
        self._began: float | None = None
        self._size = 0
        #: Has arrived, and is still to be handed out.
        self._rest = memoryview(b"")
        self._more = True
        #: Bytes of room that it holds.
        self._held: list[tuple[Room, int]] = []

    def leave(self) -> None:
        """The request has been worked on."""
        for room, size in self._held:
            room.give(size)
        self._held.clear()

    async def _enter(self, room: Room, size: int) -> None:
        await room.take(size)
        self._held.append((room, size))
        if size > SMALL_BYTES:
            self._request.scope[_HOLDS_ROOM] = True
            await trim()  # requests are parts of cycles: the large one before this may still be in memory

    async def receive(self) -> Message:
        if self._began is None:
            chunked = "transfer-encoding" in self._request.headers
            declared = declared_bytes(self._request, self._limit if chunked else 0)
            if declared > self._limit:
                raise TooLargeError(self._limit, self._advice)
            await self._enter(self._api.receiving, declared)
            self._began = asyncio.get_running_loop().time()
        if self._rest:
            await asyncio.sleep(0)
        else:
            message = await self._arrived(self._began)
            if message["type"] != "http.request":
                return message
            self._rest = memoryview(message.get("body", b""))
            self._more = message.get("more_body", False)
            if not self._more:
                await self._enter(self._api.working, self._size)
        block, self._rest = self._rest[:BLOCK_BYTES], self._rest[BLOCK_BYTES:]
        return {"type": "http.request", "body": bytes(block), "more_body": self._more or bool(self._rest)}

    async def _arrived(self, began: float) -> Message:
        try:
            async with asyncio.timeout_at(began + self._seconds + self._size / LEAST_BYTES_PER_SECOND):
                message = await self._request.receive()
        except TimeoutError:
            raise TooSlowError(f"It took more than {self._seconds:g} s. Repeat it.") from None
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise TooLargeError(self._limit, self._advice)
        return message


def holds_room(request: Request) -> bool:
    """Whether the body was so large that it holds room already: it must not wait for more, which it may hold itself."""
    return _HOLDS_ROOM in request.scope


def has_body(request: Request) -> bool:
    """Whether a body follows the headers (RFC 9112, 6.3)."""
    return "content-length" in request.headers or "transfer-encoding" in request.headers


def declared_bytes(request: Request, undeclared: int) -> int:
    """How long the body is by its Content-Length; `undeclared` if it does not say."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else undeclared
