"""Bodies of bounded length that arrive in bounded time."""

import asyncio

from fastapi import Request
from starlette.types import Message

from services.api.usecases.errors import TooLargeError, TooSlowError

BLOCK_BYTES = 16_384
"""Parsers get a body in blocks of this length, and other requests run between two blocks."""
LEAST_BYTES_PER_SECOND = 1000


def bounded(request: Request, limit_bytes: int, advice: str, seconds: float) -> Request:
    """The request; reading more than `limit_bytes` of its body raises TooLargeError with the advice, at once if it says
    how long it is. A body that takes more than `seconds`, and one for each LEAST_BYTES_PER_SECOND, raises
    TooSlowError."""
    return Request(request.scope, _Body(request, limit_bytes, advice, seconds).receive)


class _Body:
    def __init__(self, request: Request, limit_bytes: int, advice: str, seconds: float) -> None:
        self._request = request
        self._limit = limit_bytes
        self._advice = advice
        self._seconds = seconds
        self._began: float | None = None
        self._size = 0
        #: Has arrived, and is still to be handed out.
        self._rest = memoryview(b"")
        self._more = True

    async def receive(self) -> Message:
        if self._began is None:
            self._began = asyncio.get_running_loop().time()
            if declared_bytes(self._request, 0) > self._limit:
                raise TooLargeError(self._limit, self._advice)
        if self._rest:
            await asyncio.sleep(0)
        else:
            message = await self._arrived(self._began)
            if message["type"] != "http.request":
                return message
            self._rest = memoryview(message.get("body", b""))
            self._more = message.get("more_body", False)
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


def declared_bytes(request: Request, undeclared: int) -> int:
    """How long the body is by its Content-Length; `undeclared` if it does not say."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else undeclared
