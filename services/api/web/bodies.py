"""Bodies of bounded length."""

from fastapi import Request
from starlette.types import Message

from services.api.usecases.errors import TooLargeError


def bounded(request: Request, limit_bytes: int, advice: str) -> Request:
    """The request; reading more than `limit_bytes` of its body raises TooLargeError with the advice."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit_bytes:
            raise TooLargeError(limit_bytes, advice)
        return message

    return Request(request.scope, receive)
