"""Writes docs/asyncapi.json and the payload tables of docs/events.md from the code: `python -m scripts.asyncapi`.

FastStream makes the document; it is never served, because FastStream's page for it can also publish. A test checks that
the committed files are current.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import UUID

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange
from faststream.specification import AsyncAPI
from pydantic import BaseModel, Field

from shared import topology
from shared.events import EVENTS

FOLDER = Path(__file__).parents[1] / "docs"
DOCUMENT = FOLDER / "asyncapi.json"
PAGE = FOLDER / "events.md"
MARK = "<!-- The rest is written by `python -m scripts.asyncapi`. -->"

DESCRIPTION = (
    "The events that VashSender's services publish. Those on the topic exchange `vashsender` wake services: they may be"
    " lost, repeated and reordered. Those on `vashsender.events` tell programs what happened to the campaigns and"
    " recipients of a project: none is lost, and they come in order. See docs/events.md."
)


class ProjectEvent(BaseModel):
    """What happened once to a campaign or a recipient of a project. docs/webhooks.md lists the types, and what `data`
    holds for each."""

    id: str = Field(description="The same each time the event is delivered.")
    version: Literal[1] = Field(description="Version of this event. A change that breaks readers raises it.")
    type: str = Field(description="What happened, such as `recipient.failed`. More types will be added.")
    at: datetime = Field(description="When it was written, by the database's clock.")
    position: int = Field(ge=1, description="Its place among the events of the project, without gaps.")
    project_id: UUID = Field(description="The project.")
    data: dict[str, Any] = Field(description="What is known about it, by type.")


PROJECT_EVENT = "project.event"
PARAMETERS = {
    "project_id": {"description": "The project."},
    "type": {"description": "The type of the event, such as `recipient.failed`."},
}


def document() -> str:
    """The AsyncAPI 3.0.0 document, as JSON."""
    broker = RabbitBroker("amqp://localhost/vashsender", description="RabbitMQ, in a separate virtual host.")
    exchange = RabbitExchange(topology.EXCHANGE, type=ExchangeType.TOPIC, durable=True)
    for event in EVENTS:
        broker.publisher(
            exchange=exchange,
            routing_key=event.ROUTING_KEY,
            persist=True,
            mandatory=True,
            schema=event,
            title=event.ROUTING_KEY,
            description=_sentence(event),
        )
    broker.publisher(
        exchange=RabbitExchange(topology.EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True),
        routing_key="{project_id}.{type}",
        persist=True,
        mandatory=False,
        schema=ProjectEvent,
        title=PROJECT_EVENT,
        description=_sentence(ProjectEvent),
    )
    made = AsyncAPI(
        broker,
        title="VashSender events",
        version=version("vashsender"),
        description=DESCRIPTION,
        license={"name": "Apache-2.0"},
        schema_version="3.0.0",
    )
    content: dict[str, Any] = json.loads(made.to_specification().to_json())
    content["channels"][PROJECT_EVENT]["parameters"] = PARAMETERS
    del content["components"]["messages"][f"{PROJECT_EVENT}:Message"]["correlationId"]  # the id is in the event
    # FastStream keeps publishers in a set, whose order differs from run to run.
    for parent, name in (
        (content, "channels"),
        (content, "operations"),
        (content["components"], "messages"),
        (content["components"], "schemas"),
    ):
        parent[name] = dict(sorted(parent[name].items()))
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def page() -> str:
    """docs/events.md: what people wrote above the mark, and a table of fields for each event."""
    head, mark, _ = PAGE.read_text().partition(MARK)
    return head + mark + "\n\n" + "\n".join(_tables()) + "\n"


def _tables() -> Iterator[str]:
    nested: list[type[BaseModel]] = []
    yield from _table("An event of a project", ProjectEvent)
    for event in EVENTS:
        yield from _table(f"`{event.ROUTING_KEY}`", event)
        nested += [model for model in _models(event) if model not in nested]
    for model in nested:
        yield from _table(f"`{model.__name__}`", model)


def _table(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield from (f"### {title}", "", _sentence(model), "", "| field | type | |", "|---|---|---|")
    properties = model.model_json_schema()["properties"]
    for name, field in properties.items():
        yield f"| `{name}` | {_type(field)} | {field['description']} |"
    yield ""


def _type(field: dict[str, Any]) -> str:
    """The JSON type in words, such as "array of `BatchProgress`"."""
    if "$ref" in field:
        return f"`{field['$ref'].rpartition('/')[2]}`"
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if field["type"] == "array":
        return f"array of {_type(field['items'])}"
    if "const" in field:
        return f"`{field['const']}`"
    return f"{field['type']} ({field['format']})" if "format" in field else str(field["type"])


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that the fields of a model hold."""
    for field in model.model_fields.values():
        for inner in get_args(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield inner


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def main() -> None:
    DOCUMENT.write_text(document())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
