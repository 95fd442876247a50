"""Parts of a page that move: rendered again once a second, sent as server-sent events where they have changed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi.sse import ServerSentEvent

from services.api.context import Api
from services.api.page import session
from services.api.page.session import Session
from services.api.problems import Problem
from shared.ledger.database import is_unavailable

LOOK_SECONDS = 1.0
OVER = "over"
"""The event that ends a stream: nothing moves any more, or the session is over."""


@dataclass(frozen=True, slots=True)
class Parts:
    """HTML by the name of the part. `over`: nothing of it will change by itself any more."""

    html: Mapping[str, str]
    over: bool = False

    def seen(self) -> str:
        """What a page tells the stream it has, so that only what has changed since is sent."""
        return ",".join(_digest(html) for html in self.html.values())


async def stream(
    api: Api, visitor: Session, look: Callable[[], Awaitable[Parts]], seen: str
) -> AsyncIterator[ServerSentEvent]:
    """Events of the parts that `look` gives. A database that is away is waited for; the page keeps what it shows."""
    known = seen.split(",")
    while not api.stopping.is_set():
        try:
            if await session.resume(api, visitor.token) is None:
                break
            parts = await look()
        except Problem:
            break  # it was deleted
        except Exception as error:
            if not is_unavailable(error):
                raise
        else:
            digests = [_digest(html) for html in parts.html.values()]
            for index, (name, html) in enumerate(parts.html.items()):
                if known[index : index + 1] != [digests[index]]:
                    yield ServerSentEvent(raw_data=html, event=name)
            known = digests
            if parts.over:
                break
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await api.stopping.wait()
        except TimeoutError:
            continue
    if not api.stopping.is_set():
        yield ServerSentEvent(raw_data="", event=OVER)


def _digest(html: str) -> str:
    return hashlib.sha256(html.encode()).hexdigest()[:8]
