"""Whether more senders would help, the senders and their relays, the other services and the queues, live."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.api.context import Api
from services.api.page import live, render, senders
from services.api.page.live import Parts
from services.api.page.route import PageRoute, SessionDep
from services.api.shapes.operations import QueueOut
from services.api.usecases import operations, scaling
from services.api.usecases.errors import UnavailableError
from services.api.web.context import ApiDep
from services.api.web.streams import stream_place
from shared.ledger import backlog

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


@router.get("/live", response_class=EventSourceResponse, dependencies=[Depends(stream_place)])
async def follow(request: Request, api: ApiDep, session: SessionDep, seen: str = "") -> AsyncIterator[ServerSentEvent]:
    async def look() -> Parts:
        return await _parts(api, request.app.state.queue_look)

    async for event in live.stream(api, session, look, seen):
        yield event


async def _parts(api: Api, queue_look: QueueLook) -> Parts:
    async with api.ledger.read() as connection:
        found = await operations.services(connection, api.settings.instance_lost_seconds)
        backlog_emails = await backlog.emails(connection)
        all_senders = [one for one in found if one.service == "sender"]
        living = [one for one in all_senders if one.alive and not one.draining]
        held = senders.held_batches([one for one in all_senders if one.alive])
        names = await operations.campaign_names(connection, {one.campaign_id for one in held[: senders.MOST_BATCHES]})
    looked = await queue_look.at(api)
    loads = [senders.load(one) for one in living]
    rate = sum(one.emails_per_second for one in loads)
    return Parts(
        {
            "advice": render.html(
                "_advice.html",
                advice=scaling.advice(loads, backlog_emails),
                backlog=backlog_emails,
                per_second=rate,
                seconds=backlog_emails / rate if rate else None,
                living=len(living),
                held=sum(one.held for one in loads),
                capacity=sum(one.capacity for one in loads),
            ),
            "senders": render.html(
                "_senders.html",
                senders=all_senders,
                held=held[: senders.MOST_BATCHES],
                not_shown=len(held[senders.MOST_BATCHES :]),
                names=names,
            ),
            "relays": render.html("_relays.html", relays=senders.relays(living), providers=senders.providers(living)),
            "queues": render.html("_queues.html", queues=looked.queues, trouble=looked.trouble, meanings=QUEUES_FOR),
            "others": render.html("_services.html", services=[one for one in found if one.service != "sender"]),
        }
    )
