"""What docs/asyncapi.json and docs/events.md say about events, and what readers of events may rely on."""

import gzip
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from pydantic import ValidationError

from scripts import asyncapi
from shared import topology
from shared.events import EVENTS, BatchProgress, CampaignRequested, Event, SenderHeartbeat

SCHEMA = Path(__file__).parents[1] / "support" / "asyncapi" / "3.0.0.json.gz"
CURRENT = "run: python -m scripts.asyncapi"

each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.ROUTING_KEY)


def test_the_document_is_current() -> None:
    assert asyncapi.DOCUMENT.read_text() == asyncapi.document(), CURRENT


def test_the_page_is_current() -> None:
    assert asyncapi.PAGE.read_text() == asyncapi.page(), CURRENT


def test_the_document_is_valid_asyncapi() -> None:
    validator = jsonschema.Draft7Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    validator.validate(document())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document() | {"channels": {"nowhere": {"address": 1}}})


def test_the_document_names_every_event_and_its_exchange() -> None:
    channels = document()["channels"]
    exchanges = {name: channel["bindings"]["amqp"]["exchange"]["name"] for name, channel in channels.items()}
    ours = {event.ROUTING_KEY: topology.EXCHANGE for event in EVENTS}
    assert exchanges == {**ours, asyncapi.PROJECT_EVENT: topology.EVENTS_EXCHANGE}


def test_every_field_is_described() -> None:
    schemas = document()["components"]["schemas"]
    for name, schema in schemas.items():
        undescribed = [field for field, about in schema["properties"].items() if not about.get("description")]
        assert undescribed == [], name
        assert schema["description"], name


@each_event
def test_the_page_says_who_publishes_and_reads_each_event(event: type[Event]) -> None:
    queue = next(queue.name for queue in topology.QUEUES if event.ROUTING_KEY in queue.routing_keys)
    rows = [line for line in asyncapi.PAGE.read_text().splitlines() if line.startswith(f"| `{event.ROUTING_KEY}` |")]
    assert len(rows) == 1
    published_by, queue_cell, _reader = rows[0].strip("| ").split(" | ")[1:]
    assert queue_cell == f"`{queue}`"
    assert published_by.split(", ") == publishers(event)


def test_a_field_that_a_reader_does_not_know_is_ignored() -> None:
    event = CampaignRequested(campaign_id=uuid4())
    newer = event.model_dump(mode="json") | {"added_later": 1}
    assert CampaignRequested.model_validate(newer) == event


def test_a_version_that_a_reader_does_not_know_is_refused() -> None:
    newer = CampaignRequested(campaign_id=uuid4()).model_dump(mode="json") | {"version": 2}
    with pytest.raises(ValidationError):
        CampaignRequested.model_validate(newer)


def test_no_service_serves_the_document() -> None:
    """FastStream's page for it would publish events for anyone."""
    for folder in ("services", "shared", "cli"):
        assert not [path for path in Path(folder).rglob("*.py") if "asyncapi" in path.read_text().lower()]


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asyncapi.DOCUMENT.read_text())
    return found


def publishers(event: type[Event]) -> list[str]:
    """The services whose code builds the event."""
    sources = Path("services").rglob("*.py")
    return sorted({path.parts[1] for path in sources if f"{event.__name__}(" in path.read_text()})


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 1_000_000},
        {"slots": -1},
        {"pid": 2**31},
        {"instance": "x" * 201},
        {"emails_done": 2**63},
        {"uptime_seconds": float("inf")},
        {"emails_per_second": float("nan")},
    ],
)
def test_an_impossible_heartbeat_is_no_event(wrong: dict[str, object]) -> None:
    possible = {
        "instance": "sender-1@mail",
        "host": "mail",
        "pid": 1,
        "slots": 2,
        "uptime_seconds": 1.5,
        "emails_done": 7,
        "emails_per_second": 0.5,
    }
    assert SenderHeartbeat.model_validate(possible).slots == 2
    with pytest.raises(ValidationError):
        SenderHeartbeat.model_validate(possible | wrong)


@pytest.mark.parametrize("number", [2**63, -1])
def test_a_heartbeat_names_no_batch_that_cannot_exist(number: int) -> None:
    with pytest.raises(ValidationError):
        BatchProgress(
            batch_id=number, campaign_id=uuid4(), generation=1, done=0, in_flight=0, idle_seconds=0, age_seconds=0
        )
