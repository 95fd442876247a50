"""Publishes the events of projects to the exchange, in order, and notes in the ledger how far it has come."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid4

from services.webhooks.exchange import NotPublishedError
from services.webhooks.metrics import WebhookMetrics
from services.webhooks.pace import Pace
from shared import logs
from shared.ledger import event_feed, publishing
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.publishing import Claimed

PUBLISH_SECONDS = 0.5
READ_EVENTS = 500
BATCH_EVENTS = 10_000
"""Published, and not yet confirmed, at most. A broker confirms what it keeps on disk only a few times a second."""
LEASE_SECONDS = 10.0
"""Without renewal, which a clock does while a batch waits for its confirmations."""
AGAIN_SECONDS = 1.0
"""After a failure, and after a queue has refused events."""
TRIES = 3
"""Of events that a queue refuses, a second apart: it may be a moment's trouble."""
PATIENCE_BACK_SECONDS = 60.0
"""After they were given up, for how long those of the same project get one try: a full queue must not delay others."""

DRAIN_SECONDS = 3.0

log = logs.get()


class Exchange(Protocol):
    async def publish(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> Collection[int]: ...

    async def close(self) -> None: ...


class Publisher:
    """Several processes may run: a lease in the ledger says which one publishes the events of a project. It dies at any
    moment without harm: what was published but not noted is published again, with the same ids."""

    def __init__(self, ledger: Ledger, exchange: Exchange, metrics: WebhookMetrics, *, enabled: bool = True) -> None:
        self._ledger = ledger
        self._exchange = exchange
        self._metrics = metrics
        self._enabled = enabled
        self._owner = uuid4().hex
        #: Since when it fails, by the monotonic clock, and when it tries again; None: it works.
        self._failing_since: float | None = None
        self._not_before = 0.0
        #: Held while it publishes.
        self._busy = asyncio.Lock()
        self._pace = Pace()
        #: By project whose events a queue has refused: until when they get one try.
        self._hurried: dict[UUID, float] = {}
        metrics.exchange_failing_seconds.set_function(self._failing_seconds)

    async def tick(self) -> None:
        """A tick: publishes what is due, a batch of each project in turn, until nothing is."""
        if not self._pace.is_due():
            return
        async with self._busy:
            while self._enabled and time.monotonic() >= self._not_before:
                found = await self._ledger.read_at_once(partial(publishing.due, owner=self._owner))
                if found:
                    self._pace.found()
                went_on = [await self._publish(project_id) for project_id in found]
                if not any(went_on):
                    return

    async def renew(self) -> None:
        """A tick: renews the claims while a batch waits for the broker."""
        if self._busy.locked():
            async with self._ledger.write() as connection:
                await publishing.renew(connection, self._owner, LEASE_SECONDS)

    async def drain(self) -> None:
        """Ends after the batch that is being published. If that takes 3 s or the database is away, its events are
        published again, once the claim has run out."""
        self._enabled = False
        try:
            async with asyncio.timeout(DRAIN_SECONDS), self._busy, self._ledger.write() as connection:
                await publishing.release(connection, self._owner)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database.unreachable", error=in_a_line(error))
        finally:
            await self._exchange.close()

    async def _publish(self, project_id: UUID) -> bool:
        """One batch; returns whether it was published."""
        if not self._enabled or time.monotonic() < self._not_before:
            return False
        claimed = await self._ledger.write_at_once(
            partial(publishing.claim, project_id=project_id, owner=self._owner, lease_seconds=LEASE_SECONDS)
        )
        if claimed is None:
            return False
        after = max(claimed.published, claimed.forgotten)
        events, until = await self._read(project_id, after)
        try:
            refused = await self._try(project_id, events)
        except NotPublishedError as error:
            self._note_failure(error)
            return False
        self._note_success()
        is_noted = await self._ledger.write_at_once(
            partial(publishing.settle, claimed=claimed, owner=self._owner, until=until)
        )
        if is_noted:
            self._count(claimed, after, len(events), refused)
        return until > claimed.published

    async def _read(self, project_id: UUID, after: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        """The next events, and the position of the last."""
        events: list[Mapping[str, Any]] = []
        while len(events) < BATCH_EVENTS:
            found = await self._ledger.read_at_once(
                partial(event_feed.read, project_id=project_id, after=after, limit=READ_EVENTS)
            )
            if found.until == after:
                break
            events += found.data
            after = found.until
        return events, after

    async def _try(self, project_id: UUID, events: Sequence[Mapping[str, Any]]) -> int:
        """Publishes events; returns how many a queue has refused each time."""
        tries = 1 if time.monotonic() < self._hurried.get(project_id, 0.0) else TRIES
        left = events
        while left and tries:
            tries -= 1
            refused = await self._exchange.publish(project_id, left)
            left = [event for event in left if event["position"] in refused]
            if left and tries:
                await asyncio.sleep(AGAIN_SECONDS)
        if left:
            self._hurried[project_id] = time.monotonic() + PATIENCE_BACK_SECONDS
        else:
            self._hurried.pop(project_id, None)
        return len(left)

    def _count(self, claimed: Claimed, after: int, events: int, refused: int) -> None:
        counter, project_id = self._metrics.exchange_events, str(claimed.project_id)
        counter.labels("published").inc(events - refused)
        if refused:
            counter.labels("refused").inc(refused)
            log.error("events.refused", project_id=project_id, events=refused)
        if 0 < claimed.published < after:  # 0: publishing has only now been switched on, and nothing is missed
            counter.labels("forgotten").inc(after - claimed.published)
            log.error("events.fell_behind", project_id=project_id, events=after - claimed.published)

    def _note_failure(self, error: Exception) -> None:
        self._not_before = time.monotonic() + AGAIN_SECONDS
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning("events.not_published", error=in_a_line(error))

    def _note_success(self) -> None:
        if self._failing_since is not None:
            log.info("events.published_again", seconds=round(time.monotonic() - self._failing_since, 1))
        self._failing_since = None

    def _failing_seconds(self) -> float:
        return 0.0 if self._failing_since is None else time.monotonic() - self._failing_since
