"""Live parts of a page: rendered again once a second, and sent as server-sent events if they have changed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi.sse import ServerSentEvent

from services.api.context import Api
from services.api.page import session
from services.api.page.session import Session
from services.api.usecases.errors import NotFoundError
from shared.ledger.database import is_unavailable

LOOK_SECONDS = 1.0
OVER = "over"
"""The event that ends a stream: nothing changes any more, or the session is over."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The live parts of one page."""

    html: Mapping[str, str]  # by the name of the part
    over: bool = False  # nothing will change by itself any more

    def seen(self) -> str:
        """Digests of the parts. The page hands them to the stream, which then sends only what has changed since."""
        return ",".join(_digest(html) for html in self.html.values())


async def stream(
    api: Api, visitor: Session, look: Callable[[], Awaitable[Parts]], seen: str
) -> AsyncIterator[ServerSentEvent]:
    """Events of the parts that `look` renders. While the database is away, the page keeps what it shows."""
    known = seen.split(",")
    while not api.stopping.is_set():
        try:
            if await session.resume(api, visitor.token) is None:
                break
            parts = await look()
        except NotFoundError:
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
