"""Whatever arrives on a queue, a service either refuses it in words or works with it: none fails, none is stopped."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.sender.db import claims
from shared import reception
from shared.events import EVENTS, AnyProgress, BatchReleased, CampaignRequested, Event, SenderHeartbeat
from shared.ledger.database import Ledger
from shared.reception import RefusedEventError
from tests.support.services import DispatcherRig, WatchdogRig

UUID_TEXT = "018f0000-0000-7000-8000-000000000001"
NUMBERS = [0, 1, -1, 100, 101, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, -0.5, 1e9, 1e300, 1e308]
TEXTS = [
    "",
    "sender-1",
    "x" * 200,
    "x" * 5000,
    "a\0b",
    "\ud800",
    "\u2028",
    "٣",
    UUID_TEXT,
    "9" * 400,
    "'; --",
    "💌" * 90,
]
leaves = st.sampled_from([*NUMBERS, *TEXTS, None, True, float("inf"), float("nan")]) | st.integers() | st.text()
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
HEARTBEAT: dict[str, Any] = {
    "instance": "sender-1@mail",
    "host": "mail",
    "pid": 1,
    "slot": "sender-1",
    "slots": 2,
    "uptime_seconds": 1.5,
    "emails_done": 7,
    "emails_per_second": 0.5,
}
BATCH = {"batch_id": 1, "campaign_id": UUID_TEXT, "generation": 1, "reason": "lease_expired", "status": "finished"}
PROGRESS = {**BATCH, "done": 0, "in_flight": 0, "idle_seconds": 1e8, "age_seconds": 1e8}
RELAY = {"name": "smtp.example.com:25", "state": "up", "connections": 1, "in_flight": 0, "reason": ""}


def some_of(possible: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A possible object in which some members are anything."""
    return st.dictionaries(st.sampled_from(sorted(possible)), anything, max_size=2).map(
        lambda strange: possible | strange
    )


heartbeats = st.builds(
    lambda beat, batches, relays: {**beat, "batches": batches, "relays": relays},
    some_of(HEARTBEAT | {"draining": False, "blocked": False}),
    st.lists(some_of(PROGRESS), max_size=3),
    st.lists(some_of(RELAY), max_size=3),
)
bodies = st.one_of(
    heartbeats.map(json.dumps),
    some_of(BATCH).map(json.dumps),
    anything.map(json.dumps),
    st.just("[" * 100_000),
    st.just(json.dumps({**BATCH, "more": "x" * 1_100_000})),
).map(lambda text: text.encode("utf-8", "surrogatepass"))


def test_no_event_stops_a_service(database_url: str) -> None:
    with asyncio.Runner() as runner:
        ledger, handlers = runner.run(_services(database_url))

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.sampled_from(list(handlers)), bodies | st.binary())
        @example(SenderHeartbeat, json.dumps({**HEARTBEAT, "relays": [{**RELAY, "reason": "a\0b\r\n"}]}).encode())
        @example(CampaignRequested, json.dumps({**BATCH, "campaign_id": "\r"}).encode())
        @example(SenderHeartbeat, json.dumps({**HEARTBEAT, "batches": [{**PROGRESS, "generation": 2**31}]}).encode())
        @example(SenderHeartbeat, json.dumps({**HEARTBEAT, "uptime_seconds": 1e308}).encode())
        @example(BatchReleased, json.dumps({**BATCH, "batch_id": 2**63 - 1, "generation": 2**31 - 1}).encode())
        def arrives(event: type[Event], body: bytes) -> None:
            try:
                read = reception.read(event, body)
            except RefusedEventError as error:
                refusal = str(error)
            else:
                refusal = "accepted"
                runner.run(handlers[event](read))
            assert 0 < len(refusal) <= 400
            assert refusal.isprintable()

        try:
            arrives()
        finally:
            runner.run(ledger.close())


def test_every_event_and_every_field_has_bounds() -> None:
    """Numbers, texts and lists: a new field without a bound fails here."""
    for event in EVENTS:
        schema = event.model_json_schema()
        for model in (schema, *schema.get("$defs", {}).values()):
            for name, field in model["properties"].items():
                for kind in field.get("anyOf", [field]):
                    assert _is_bounded(kind), f"{event.__name__}: {model['title']}.{name}"


def _is_bounded(kind: dict[str, Any]) -> bool:
    known = "const" in kind or "enum" in kind or "format" in kind or kind.get("type") in ("boolean", "null")
    if known or "$ref" in kind:
        return True
    if kind["type"] == "array":
        return "maxItems" in kind
    return "maxLength" in kind if kind["type"] == "string" else {"minimum", "maximum"} <= kind.keys()


async def _services(database_url: str) -> tuple[Ledger, dict[type[Event], Callable[[Any], Coroutine[Any, Any, None]]]]:
    """What each service does with an event that it accepts, up to its statements on the ledger."""
    ledger = Ledger(database_url, pool_size=2)
    dispatcher, watchdog = DispatcherRig.on(ledger), WatchdogRig.on(ledger)

    async def to_the_watchdog(heartbeat: SenderHeartbeat) -> None:
        await watchdog.watchdog.on_heartbeat(heartbeat)
        await watchdog.heartbeats.write(ledger)
        await watchdog.watchdog.look()

    async def to_the_dispatcher(event: CampaignRequested | AnyProgress) -> None:
        if isinstance(event, CampaignRequested):
            await dispatcher.dispatcher.on_request(event)
        else:
            await dispatcher.dispatcher.on_progress(event)
        async with dispatcher.dispatcher.open():
            await dispatcher.dispatcher.round("event")

    async def to_a_sender(ticket: BatchReleased) -> None:
        assert await claims.claim(ledger, ticket.batch_id, ticket.generation, "sender-1", 15.0) is None

    return ledger, {
        SenderHeartbeat: to_the_watchdog,
        CampaignRequested: to_the_dispatcher,
        AnyProgress: to_the_dispatcher,
        BatchReleased: to_a_sender,
    }
