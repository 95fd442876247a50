"""Writes docs/asyncapi.json and the payload tables of docs/events.md from the code: `python -m scripts.asyncapi`.

FastStream makes the document; it is never served, because FastStream's page for it can also publish. A test checks that
the committed files are current.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange
from faststream.specification import AsyncAPI
from pydantic import BaseModel

from shared import topology
from shared.events import EVENTS

FOLDER = Path(__file__).parents[1] / "docs"
DOCUMENT = FOLDER / "asyncapi.json"
PAGE = FOLDER / "events.md"
MARK = "<!-- The rest is written by `python -m scripts.asyncapi`. -->"

DESCRIPTION = (
    "The events that VashSender's services publish to the topic exchange `vashsender`. An event wakes; the ledger"
    " decides: events may be lost, repeated and reordered. See docs/events.md."
)


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
    made = AsyncAPI(
        broker,
        title="VashSender events",
        version=version("vashsender"),
        description=DESCRIPTION,
        license={"name": "Apache-2.0"},
        schema_version="3.0.0",
    )
    content: dict[str, Any] = json.loads(made.to_specification().to_json())
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
