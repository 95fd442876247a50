"""Delivers to one endpoint: batch after batch in order, until nothing is left or a POST fails."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import orjson
from sqlalchemy import delete, select, update
from sqlmodel import col

from services.webhooks import signature
from services.webhooks.http import Answer
from services.webhooks.metrics import WebhookMetrics
from shared import logs
from shared.ledger import audit, event_feed, outbox, rows, webhooks
from shared.ledger.audit import Actor
from shared.ledger.database import Ledger, db_now
from shared.ledger.facts import Fact, FactType
from shared.ledger.webhook_tables import WebhookSetAside
from shared.ledger.webhooks import SUCCESS, Endpoint

BATCH_EVENTS = 500
BATCH_BYTES = 1_000_000
"""Of a body, about; one event has at most a few kilobytes."""

LEASE_SECONDS = 10.0
"""Without renewal; the courier renews it while a POST lasts."""

RETRY_SECONDS = (5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
"""The waits after the first failures; the last is repeated."""
JITTER = 0.2

GONE = 410
NOT_ABOUT_THE_EVENTS = frozenset({401, 407, 408, GONE, 425, 429})
"""4xx that say nothing about what was sent: the whole POST is tried again later."""
GONE_TRIES = 4
"""An endpoint that says that it is gone is disabled at this failure in a row, as Standard Webhooks asks."""

SET_ASIDE_IN_A_ROW = 3
"""An endpoint that refuses more events than this one after the other is broken; none of them is to blame."""

MOST_SET_ASIDE = 1000
"""Events of one endpoint. One that refuses more is taken for broken until a person has looked."""

SLICE_SECONDS = 5.0
"""After which an endpoint makes room, if others wait for a place."""

log = logs.get()


class Poster(Protocol):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class Delivery:
    """One claim of one endpoint. It dies at any moment without harm: what was accepted but not noted is sent again."""

    def __init__(self, ledger: Ledger, client: Poster, metrics: WebhookMetrics, owner: str, give_up_seconds: float):
        self._ledger = ledger
        self._client = client
        self._metrics = metrics
        self._owner = owner
        self._give_up_seconds = give_up_seconds

    async def run(self, endpoint_id: UUID, others_wait: Callable[[], bool] = lambda: False) -> None:
        """Delivers until there is nothing left, a POST fails, or another process has the endpoint; or for 5 s if others
        wait for a place."""
        began = time.monotonic()
        try:
            while await self._step(endpoint_id):
                if others_wait() and time.monotonic() - began > SLICE_SECONDS:
                    return
        finally:
            async with self._ledger.write() as connection:
                await webhooks.release(connection, endpoint_id, self._owner)

    async def _step(self, endpoint_id: UUID) -> bool:
        """One batch; returns whether to go on."""
        async with self._ledger.write() as connection:
            endpoint = await webhooks.claim(connection, endpoint_id, self._owner, LEASE_SECONDS)
            if endpoint is None:
                return False
            secrets = await webhooks.valid_secrets(connection, endpoint_id)
        async with self._ledger.read() as connection:
            again = await connection.scalar(
                select(col(WebhookSetAside.position))
                .where(col(WebhookSetAside.endpoint_id) == endpoint_id, col(WebhookSetAside.again).is_(True))
                .order_by(col(WebhookSetAside.position))
                .limit(1)
            )
            after = endpoint.cursor if again is None else again - 1
            stream = await event_feed.stream_of(connection, endpoint.project_id)
            after = max(after, stream.forgotten_position)
            found = await event_feed.read(
                connection, endpoint.project_id, after, BATCH_EVENTS if again is None else 1, endpoint.types
            )
        if again is not None:
            return await self._try_again(endpoint, secrets, again, found.data)
        if found.until <= endpoint.cursor:
            return False
        if stream.forgotten_position > endpoint.cursor:
            missed = stream.forgotten_position - endpoint.cursor
            self._metrics.events.labels("forgotten").inc(missed)
            log.error("webhook.fell_behind", webhook_id=str(endpoint_id), events=missed)
        events = [event for event in found.data if _is_for(event, endpoint_id)]
        if not events:
            return await self._settle(endpoint, found.until)
        whole = _within(events, BATCH_BYTES)
        until = found.until if len(whole) == len(events) else int(whole[-1]["position"])
        return await self._deliver(endpoint, secrets, whole, until)

    async def _deliver(
        self, endpoint: Endpoint, secrets: Sequence[str], events: Sequence[dict[str, Any]], until: int
    ) -> bool:
        """Delivers events, of which the last one is at or before the position `until`. A refused batch is halved: the
        first half is next."""
        answer = await self._post(endpoint, secrets, events)
        if answer.is_accepted:
            self._metrics.events.labels("delivered").inc(len(events))
            return await self._settle(endpoint, until, **SUCCESS, last_status=answer.status, last_success_at=db_now())
        if not _is_refusal(answer):
            return await self._fail(endpoint, answer)
        if len(events) > 1:
            half = events[: len(events) // 2]
            return await self._deliver(endpoint, secrets, half, int(half[-1]["position"]))
        if endpoint.refused_in_a_row >= SET_ASIDE_IN_A_ROW:
            return await self._fail(endpoint, answer)
        return await self._set_aside(endpoint, events[0], until, answer)

    async def _try_again(
        self, endpoint: Endpoint, secrets: Sequence[str], position: int, events: Sequence[dict[str, Any]]
    ) -> bool:
        """Delivers one event that was set aside, because a person asked."""
        here = (col(WebhookSetAside.endpoint_id) == endpoint.id, col(WebhookSetAside.position) == position)
        if not events or events[0]["position"] != position:  # past its retention
            async with self._ledger.write() as connection:
                await connection.execute(delete(WebhookSetAside).where(*here))
            return True
        answer = await self._post(endpoint, secrets, events)
        if not answer.is_accepted and not _is_refusal(answer):
            return await self._fail(endpoint, answer)
        async with self._ledger.write() as connection:
            if answer.is_accepted:
                await connection.execute(delete(WebhookSetAside).where(*here))
                self._metrics.events.labels("delivered").inc()
            else:
                new = {"again": False, "status": answer.status, "error": answer.error}
                await connection.execute(update(WebhookSetAside).where(*here).values(**new))
        return True

    async def _post(self, endpoint: Endpoint, secrets: Sequence[str], events: Sequence[Mapping[str, Any]]) -> Answer:
        message_id = f"{endpoint.id}-{events[0]['position']}-{events[-1]['position']}"
        now = time.time()
        moment = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
        body = orjson.dumps({"type": "events", "timestamp": moment, "data": events})
        began = time.monotonic()
        answer = await self._client.post(endpoint.url, signature.headers(secrets, message_id, int(now), body), body)
        self._metrics.post_seconds.observe(time.monotonic() - began)
        outcome = "accepted" if answer.is_accepted else "refused" if _is_refusal(answer) else "failed"
        self._metrics.posts.labels(outcome).inc()
        return answer

    async def _settle(self, endpoint: Endpoint, until: int, **values: Any) -> bool:
        """Goes on in any case: if a replay has moved the cursor, from there."""
        async with self._ledger.write() as connection:
            await webhooks.settle(connection, endpoint, self._owner, until, **values)
        return True

    async def _set_aside(self, endpoint: Endpoint, event: Mapping[str, Any], until: int, answer: Answer) -> bool:
        """Goes on without the one event that the endpoint refuses."""
        async with self._ledger.write() as connection:
            is_full = await webhooks.count_set_aside(connection, endpoint) >= MOST_SET_ASIDE
        if is_full:
            return await self._fail(endpoint, answer)
        async with self._ledger.write() as connection:
            moved = await webhooks.settle(
                connection,
                endpoint,
                self._owner,
                until,
                last_status=answer.status,
                last_error=answer.error,
                refused_in_a_row=endpoint.refused_in_a_row + 1,
            )
            if not moved:
                return True
            new = {
                "endpoint_id": endpoint.id,
                "position": event["position"],
                "at": db_now(),
                "status": answer.status,
                "error": answer.error,
                "again": False,
            }
            await rows.upsert(connection, WebhookSetAside, new, key=("endpoint_id", "position"))
        self._metrics.events.labels("set_aside").inc()
        log.warning("webhook.set_aside", webhook_id=str(endpoint.id), position=event["position"], status=answer.status)
        return True

    async def _fail(self, endpoint: Endpoint, answer: Answer) -> bool:
        """Notes a failure, and disables the endpoint if it has failed for too long. Ends this delivery."""
        async with self._ledger.write() as connection:
            delay = RETRY_SECONDS[min(endpoint.failures, len(RETRY_SECONDS) - 1)]
            delay *= random.uniform(1 - JITTER, 1 + JITTER)
            seconds = await webhooks.note_failure(connection, endpoint, self._owner, delay, answer.status, answer.error)
            if not self._is_hopeless(endpoint, answer, seconds) or not await webhooks.disable(connection, endpoint.id):
                log.info("webhook.failed", webhook_id=str(endpoint.id), status=answer.status, reason=answer.error)
                return False
            details = {"webhook_id": str(endpoint.id), "reason": answer.error}
            await outbox.tell(connection, endpoint.project_id, [Fact(FactType.WEBHOOK_DISABLED, details=details)])
            actor = Actor("command", "webhooks", "the service webhooks")
            target = f"webhook_id={endpoint.id}"
            await audit.record(connection, actor, "disable", target=target, project_id=endpoint.project_id)
        self._metrics.disabled.inc()
        log.error("webhook.disabled", webhook_id=str(endpoint.id), reason=answer.error)
        return False

    def _is_hopeless(self, endpoint: Endpoint, answer: Answer, seconds: float) -> bool:
        """Whether it has failed for too long. Time alone does not say so: the clock may have been set, or this service
        was not running meanwhile. So at least half of the tries that belong to that time must have failed, too."""
        failures = endpoint.failures + 1
        if answer.status == GONE and failures >= GONE_TRIES and seconds > 0:
            return True
        return seconds >= self._give_up_seconds and failures >= failures_within(self._give_up_seconds) / 2


def failures_within(seconds: float) -> int:
    """How many failures there are in that time if the endpoint is tried whenever it is due."""
    waited, failures = 0.0, 1
    while (waited := waited + (1 + JITTER) * RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]) <= seconds:
        failures += 1
    return failures


def _is_refusal(answer: Answer) -> bool:
    """The endpoint works, and says that something about the events is wrong."""
    return answer.status is not None and 400 <= answer.status < 500 and answer.status not in NOT_ABOUT_THE_EVENTS


def _is_for(event: Mapping[str, Any], endpoint_id: UUID) -> bool:
    """A test goes only to the endpoint that it tests."""
    return event["type"] != FactType.WEBHOOK_TEST or bool(event["data"].get("webhook_id") == str(endpoint_id))


def _within(events: Sequence[dict[str, Any]], most: int) -> Sequence[dict[str, Any]]:
    """The first events that take at most so many bytes together; at least one."""
    size = 0
    for number, event in enumerate(events):
        size += len(orjson.dumps(event))
        if number and size > most:
            return events[:number]
    return events
