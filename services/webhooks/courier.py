"""Finds the endpoints that have something to deliver, and runs one delivery for each."""

import asyncio
from functools import partial
from uuid import UUID, uuid4

from services.webhooks.delivery import LEASE_SECONDS, Delivery, Poster
from services.webhooks.metrics import WebhookMetrics
from services.webhooks.pace import Pace
from shared import logs
from shared.ledger import webhooks
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import WebhooksSettings
from shared.tasks import end_all

LOOK_SECONDS = 0.5
RENEW_SECONDS = 3.0

log = logs.get()


class Courier:
    """Each endpoint has a separate delivery, so one that is slow or dead delays no other. Several processes may run:
    a lease in the ledger says which one delivers to an endpoint."""

    def __init__(self, settings: WebhooksSettings, ledger: Ledger, client: Poster, metrics: WebhookMetrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._most = settings.webhook_deliveries
        self._owner = uuid4().hex
        self._delivery = Delivery(ledger, client, metrics, self._owner, settings.webhook_give_up_seconds)
        self._pace = Pace()
        #: Endpoints that are due had no place at the last look.
        self._others_wait = False
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """A tick: starts a delivery for each endpoint that is due."""
        if not self._pace.is_due():
            return
        room = self._most - len(self._running)
        found = await self._ledger.read_at_once(
            partial(webhooks.due, owner=self._owner, without=list(self._running), most=room + 1)
        )
        self._others_wait = len(found) > room
        if found or self._running:
            self._pace.found()
        for endpoint_id in found[:room]:
            task = asyncio.create_task(self._delivery.run(endpoint_id, lambda: self._others_wait))
            self._running[endpoint_id] = task
            task.add_done_callback(partial(self._ended, endpoint_id))

    async def renew(self) -> None:
        """A tick: renews the leases of the deliveries that run."""
        if self._running:
            async with self._ledger.write() as connection:
                await webhooks.renew(connection, self._owner, LEASE_SECONDS)

    async def drain(self) -> None:
        """Ends every delivery. An answer that is lost so comes again; a lease that is not given back runs out."""
        await end_all(list(self._running.values()))

    def _ended(self, endpoint_id: UUID, task: asyncio.Task[None]) -> None:
        self._running.pop(endpoint_id, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if is_unavailable(error):
            log.warning("database.unreachable", error=in_a_line(error))
        else:
            log.error("webhook.delivery_failed", webhook_id=str(endpoint_id), exc_info=error)
