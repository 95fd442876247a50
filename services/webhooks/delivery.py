"""Delivers to one endpoint: batch after batch in order, until nothing is left or a POST fails."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.webhooks import signature
from services.webhooks.http import Answer
from services.webhooks.metrics import WebhookMetrics
from shared import logs
from shared.ledger import audit, event_feed, outbox, rows, webhooks
from shared.ledger.audit import Actor
from shared.ledger.database import Ledger, db_now
from shared.ledger.event_feed import Events
from shared.ledger.facts import Fact, FactType
from shared.ledger.webhook_tables import WebhookSetAside
from shared.ledger.webhooks import SUCCESS, Ahead, Endpoint

BATCH_EVENTS = 500
BATCH_BYTES = 1_000_000
"""Of a body, about; one event has at most a few kilobytes."""

LEASE_SECONDS = 10.0
"""Without renewal; the courier renews it while a POST lasts."""

CLAIM_SECONDS = 1.0
"""For which batches are delivered before the ledger is told: each write to it holds up others. What a killed process
has delivered in this time comes again."""

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


class _Event(NamedTuple):
    position: int
    json: bytes


class Poster(Protocol):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


@dataclass(slots=True)
class _Claim:
    """One claim of an endpoint, and its results so far."""

    #: As the ledger has it.
    endpoint: Endpoint
    secrets: Sequence[str]
    #: From then on, by the monotonic clock, the next POST takes a new claim.
    ends_at: float
    #: Events up to here are accepted, or of no type that the endpoint wants.
    accepted: int
    #: Of the newest POST that was accepted; None: none was, or the ledger has it.
    status: int | None = None


class Delivery:
    """Delivers to endpoints. It dies at any moment without harm: what was accepted but not noted is sent again."""

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

        def makes_room() -> bool:
            return others_wait() and time.monotonic() - began > SLICE_SECONDS

        while await self._under_a_claim(endpoint_id, makes_room):
            pass

    async def _under_a_claim(self, endpoint_id: UUID, makes_room: Callable[[], bool]) -> bool:
        """Batches for about a second, between two writes to the ledger; returns whether to go on."""
        ends_at = time.monotonic() + CLAIM_SECONDS

        async def begin(connection: AsyncConnection) -> _Claim | None:
            endpoint = await webhooks.claim(connection, endpoint_id, self._owner, LEASE_SECONDS)
            if endpoint is None:
                return None
            secrets = await webhooks.valid_secrets(connection, endpoint_id)
            return _Claim(endpoint, secrets, ends_at, endpoint.cursor)

        claim = await self._ledger.write_at_once(begin)
        if claim is None:
            return False
        goes_on = False
        try:
            while (is_left := await self._step(claim)) and time.monotonic() < claim.ends_at:
                pass
            goes_on = is_left and not makes_room()
        finally:
            goes_on = await self._ledger.write_at_once(partial(self._end, claim=claim, goes_on=goes_on))
        return goes_on

    async def _end(self, connection: AsyncConnection, claim: _Claim, *, goes_on: bool) -> bool:
        """Ends a claim that does not go on; returns whether it does."""
        # If a replay has moved the cursor, delivery continues there.
        goes_on = not await self._note(connection, claim) or goes_on
        if not goes_on:
            await webhooks.release(connection, claim.endpoint.id, self._owner)
        return goes_on

    async def _step(self, claim: _Claim) -> bool:
        """One batch; returns whether to go on."""
        ahead, found = await self._ledger.read_at_once(partial(_next_events, claim=claim))
        if ahead.again is not None:
            return await self._try_again(claim, ahead.again, _encoded(found.data))
        if found.until <= claim.accepted:
            return False
        if ahead.forgotten_position > claim.accepted:
            missed = ahead.forgotten_position - claim.accepted
            self._metrics.events.labels("forgotten").inc(missed)
            log.error("webhook.fell_behind", webhook_id=str(claim.endpoint.id), events=missed)
        events = [event for event in found.data if _is_for(event, claim.endpoint.id)]
        batch = _encoded(events)
        until = found.until if len(batch) == len(events) else batch[-1].position
        if not batch:
            claim.accepted = until
        elif not await self._deliver(claim, batch, until):
            return False
        return claim.accepted < ahead.last_position

    async def _deliver(self, claim: _Claim, batch: Sequence[_Event], until: int) -> bool:
        """Delivers events, of which the last one is at or before the position `until`. A refused batch is halved: the
        first half is next."""
        answer = await self._post(claim, batch)
        if answer.is_accepted:
            self._metrics.events.labels("delivered").inc(len(batch))
            claim.accepted, claim.status = until, answer.status
            return True
        if _is_refusal(answer) and len(batch) > 1:
            half = batch[: len(batch) // 2]
            return await self._deliver(claim, half, half[-1].position)
        async with self._ledger.write() as connection:
            await self._note(connection, claim)
        if _is_refusal(answer) and claim.endpoint.refused_in_a_row < SET_ASIDE_IN_A_ROW:
            return await self._set_aside(claim, batch[0].position, until, answer)
        return await self._fail(claim.endpoint, answer)

    async def _try_again(self, claim: _Claim, position: int, batch: Sequence[_Event]) -> bool:
        """Delivers one event that was set aside, because a person asked."""
        here = (col(WebhookSetAside.endpoint_id) == claim.endpoint.id, col(WebhookSetAside.position) == position)
        if not batch or batch[0].position != position:  # past its retention
            async with self._ledger.write() as connection:
                await connection.execute(delete(WebhookSetAside).where(*here))
            return True
        answer = await self._post(claim, batch)
        async with self._ledger.write() as connection:
            if answer.is_accepted:
                await connection.execute(delete(WebhookSetAside).where(*here))
                self._metrics.events.labels("delivered").inc()
                return True
            if _is_refusal(answer):
                new = {"again": False, "status": answer.status, "error": answer.error}
                await connection.execute(update(WebhookSetAside).where(*here).values(**new))
                return True
            await self._note(connection, claim)
        return await self._fail(claim.endpoint, answer)

    async def _post(self, claim: _Claim, batch: Sequence[_Event]) -> Answer:
        message_id = f"{claim.endpoint.id}-{batch[0].position}-{batch[-1].position}"
        at = time.time()
        moment = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
        body = b'{"type":"events","timestamp":"%s","data":[%s]}' % (
            moment.encode(),
            b",".join([event.json for event in batch]),
        )
        headers = signature.headers(claim.secrets, message_id, int(at), body)
        began = time.monotonic()
        answer = await self._client.post(claim.endpoint.url, headers, body)
        self._metrics.post_seconds.observe(time.monotonic() - began)
        outcome = "accepted" if answer.is_accepted else "refused" if _is_refusal(answer) else "failed"
        self._metrics.posts.labels(outcome).inc()
        return answer

    async def _note(self, connection: AsyncConnection, claim: _Claim) -> bool:
        """Notes what was accepted. False: the claim is lost, or a replay has moved the cursor."""
        if claim.accepted <= claim.endpoint.cursor:
            return True
        values: Mapping[str, Any] = {}
        if claim.status is not None:
            values = {**SUCCESS, "last_status": claim.status, "last_success_at": db_now()}
        is_noted = await webhooks.settle(connection, claim.endpoint, self._owner, claim.accepted, **values)
        claim.endpoint = replace(claim.endpoint, cursor=claim.accepted)
        if claim.status is not None:
            claim.endpoint, claim.status = replace(claim.endpoint, failures=0, refused_in_a_row=0), None
        return is_noted

    async def _set_aside(self, claim: _Claim, position: int, until: int, answer: Answer) -> bool:
        """Goes on without the one event that the endpoint refuses."""
        endpoint = claim.endpoint
        claim.ends_at = 0.0  # with a new claim, which knows how many were refused in a row
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
                "position": position,
                "at": db_now(),
                "status": answer.status,
                "error": answer.error,
                "again": False,
            }
            await rows.upsert(connection, WebhookSetAside, new, key=("endpoint_id", "position"))
        self._metrics.events.labels("set_aside").inc()
        log.warning("webhook.set_aside", webhook_id=str(endpoint.id), position=position, status=answer.status)
        return True

    async def _fail(self, endpoint: Endpoint, answer: Answer) -> bool:
        """Notes a failure, and disables the endpoint if it has failed for too long. Ends this delivery."""
        async with self._ledger.write() as connection:
            delay = RETRY_SECONDS[min(endpoint.failures, len(RETRY_SECONDS) - 1)]
            delay = max(delay * random.uniform(1 - JITTER, 1 + JITTER), answer.retry_after)
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


async def _next_events(connection: AsyncConnection, claim: _Claim) -> tuple[Ahead, Events]:
    """What is ahead of the endpoint, and the first events of it; only one if it was set aside and is tried again."""
    ahead = await webhooks.ahead(connection, claim.endpoint)
    wanted = claim.accepted if ahead.again is None else ahead.again - 1
    after = max(wanted, ahead.forgotten_position)
    limit = BATCH_EVENTS if ahead.again is None else 1
    return ahead, await event_feed.read(connection, claim.endpoint.project_id, after, limit, claim.endpoint.types)


def _is_refusal(answer: Answer) -> bool:
    """The endpoint works, and says that something about the events is wrong."""
    return answer.status is not None and 400 <= answer.status < 500 and answer.status not in NOT_ABOUT_THE_EVENTS


def _is_for(event: Mapping[str, Any], endpoint_id: UUID) -> bool:
    """A test goes only to the endpoint that it tests."""
    return event["type"] != FactType.WEBHOOK_TEST or bool(event["data"].get("webhook_id") == str(endpoint_id))


def _encoded(events: Sequence[Mapping[str, Any]]) -> Sequence[_Event]:
    """The first events that take at most BATCH_BYTES together; at least one."""
    batch: list[_Event] = []
    size = 0
    for event in events:
        encoded = _Event(event["position"], orjson.dumps(event))
        size += len(encoded.json)
        if batch and size > BATCH_BYTES:
            break
        batch.append(encoded)
    return batch
