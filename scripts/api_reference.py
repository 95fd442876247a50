"""The API reference, a page of the docs as a site: the contract that the API serves, with an example of each request.

The examples are docs/examples/requests.sh, and tests/integration/test_api_requests.py runs them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "requests.sh"
EXAMPLE = re.compile(
    r"^# (?P<request>[A-Z]+ /\S+)(?: -> (?P<status>\d+))?\n(?P<text>.*?)(?=^# [A-Z]+ /|\Z)", re.MULTILINE | re.DOTALL
)
INTRODUCTION = (
    "Every request, from the contract that the API serves at `/openapi.json`. What a schema cannot say is on"
    " [the page of the API](api.md). The examples use `curl` and `jq`, and begin with these lines:"
)
METHODS = ("get", "post", "put", "patch", "delete")

NOTHING_SAID = "Successful Response"
"""FastAPI's description of an answer without one."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """Shell commands for one request."""

    #: Such as `GET /v1/campaigns/{campaign_id}`.
    request: str
    text: str
    #: The error that is the answer; 0: it succeeds.
    status: int


def contract() -> dict[str, Any]:
    """What the API serves at /openapi.json."""
    from fastapi import FastAPI

    from services.api.rest import mount

    app = FastAPI()
    mount.mount(app)
    return app.openapi()


def prelude() -> str:
    """What comes before the examples: the variables and the function that they use."""
    text = EXAMPLES.read_text()
    first = EXAMPLE.search(text)
    lines = text[: first.start() if first else None].splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).strip()


def examples() -> list[Example]:
    """The examples, in an order in which they work."""
    found = EXAMPLE.finditer(EXAMPLES.read_text())
    return [Example(one["request"], one["text"].strip(), int(one["status"] or 0)) for one in found]


def reference(document: Json) -> str:
    """A page with every request of an OpenAPI document, and the shapes of what goes in and out."""
    by_request = {example.request: example for example in examples()}
    lines = ["# API reference", "", INTRODUCTION, "", *_block("sh", prelude())]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                title = f"{method.upper()} {path}"
                lines += _operation(title, operations[method], document, by_request[title])
    lines += ["## Shapes", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _shape(name, schema)
    return "\n".join(lines) + "\n"


def _operation(title: str, operation: Json, document: Json, example: Example) -> Iterator[str]:
    yield from (
        f"## {operation['summary']}",
        "",
        f"**`{title}`**",
        "",
        operation.get("description", ""),
        "",
    )
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            name, meaning = f"`{one['name']}`{_needed(one.get('required'))}", _cell(one.get("description", ""))
            yield f"| {name} | {one['in']} | {_type(one['schema'])} | {meaning} |"
        yield ""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body, `{kind}`:", "", *_fields(_resolved(content.get("schema", {}), document)))
        if given := content.get("example"):
            yield from _block("", given if isinstance(given, str) else json.dumps(given, indent=2))
    yield from ("| answer | body | meaning |", "|---|---|---|")
    for status, answer in operation["responses"].items():
        bodies = {_type(content.get("schema", {})) for content in answer.get("content", {}).values()}
        meaning = _cell(answer["description"].removeprefix(NOTHING_SAID))
        yield f"| {status} | {' or '.join(sorted(bodies - {'any'}))} | {meaning} |"
    yield ""
    yield from _block("sh", example.text)
    if example.status:
        yield from (f"Where the examples run, the answer is {example.status}.", "")


def _shape(name: str, schema: Json) -> Iterator[str]:
    if schema.get("properties") or schema.get("enum"):
        yield from (f"### {name}", "", _cell(schema.get("description", "")), "")
        yield from _fields(schema)
    if values := schema.get("enum"):
        yield from (", ".join(f"`{value}`" for value in values), "")


def _fields(schema: Json) -> Iterator[str]:
    if properties := schema.get("properties"):
        yield from ("| field | type | meaning |", "|---|---|---|")
        for name, one in properties.items():
            needed = _needed(name in schema.get("required", ()))
            yield f"| `{name}`{needed} | {_type(one)} | {_cell(one.get('description', ''))} |"
        yield ""


def _needed(required: object) -> str:
    return " (required)" if required else ""


def _block(language: str, text: str) -> Iterable[str]:
    return (f"```{language}", text.rstrip("\n"), "```", "")


def _resolved(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = str(schema["$ref"].rpartition("/")[2])
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(one) for one in options if one.get("type") != "null")
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
