"""Senders, the other services, and the queues between them, live."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.context import Api
from services.api.page import live, render
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep
from services.api.shapes.operations import QueueOut
from services.api.usecases import operations
from services.api.usecases.errors import UnavailableError
from services.api.web.context import ApiDep

FRESH_SECONDS = 2.0
QUEUES_FOR = {
    "campaigns": "campaigns that need the dispatcher",
    "email": "tickets of batches, for the senders",
    "default": "finished batches, for the dispatcher",
    "heartbeats": "heartbeats of the senders, for the watchdog",
    "dead": "events that could not be handled",
}

router = APIRouter(prefix="/services", include_in_schema=False, route_class=PageRoute)


@dataclass
class QueueLook:
    """The queues as they were at most FRESH_SECONDS ago. People who look at the same time share one connection to the
    broker."""

    queues: Sequence[QueueOut] = ()
    trouble: str = ""  # why the broker could not be asked; empty if it could
    _until: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def at(self, api: Api) -> "QueueLook":
        async with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self.queues, self.trouble = await operations.queues(api.settings.broker_url), ""
                except UnavailableError as error:
                    self.queues, self.trouble = (), error.detail
                self._until = time.monotonic() + FRESH_SECONDS
        return self


@router.get("")
async def show(request: Request, api: ApiDep) -> Response:
    parts = await _parts(api, request.app.state.queue_look)
    return render.page(
        request, "services.html", section="services", parts=parts.html, live=f"/services/live?seen={parts.seen()}"
    )


@router.get("/live", response_class=EventSourceResponse)
async def follow(request: Request, api: ApiDep, session: SessionDep, seen: str = "") -> AsyncIterator[ServerSentEvent]:
    async def look() -> Parts:
        return await _parts(api, request.app.state.queue_look)

    async for event in live.stream(api, session, look, seen):
        yield event


async def _parts(api: Api, queue_look: QueueLook) -> Parts:
    async with api.ledger.read() as connection:
        found = await operations.services(connection, api.settings.instance_lost_seconds)
    senders = [one for one in found if one.service == "sender"]
    living = [one for one in senders if one.alive and not one.draining]
    looked = await queue_look.at(api)
    return Parts(
        {
            "senders": render.html(
                "_senders.html",
                senders=senders,
                living=living,
                capacity=sum(one.slots for one in living),
                busy=sum(len(one.detail.get("batches", ())) for one in living),
                per_second=sum(one.detail.get("emails_per_second", 0.0) for one in living),
                relays=[relay for one in living for relay in one.detail.get("relays", ())],
            ),
            "queues": render.html("_queues.html", queues=looked.queues, trouble=looked.trouble, meanings=QUEUES_FOR),
            "others": render.html("_services.html", services=[one for one in found if one.service != "sender"]),
        }
    )
