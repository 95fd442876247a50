"""Everything pydantic can find wrong with what our models accept is said in our words: what, where, how to mend it."""

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from json import JSONDecodeError
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import ValidationError

from services.api.page.forms import FormError, validated
from services.api.rest.mount import PARTS
from services.api.shapes.campaigns import CampaignIn, CampaignPatch, ReopenIn, SendIn
from services.api.shapes.campaigns import TestIn as BodyOfTest
from services.api.shapes.common import Body
from services.api.shapes.previews import PreviewIn
from services.api.shapes.suppressions import SuppressionsIn
from services.api.web import wording
from shared.json_words import place_and_reason

# The errors of each node of a core schema, and of each limit in one.
NODES: Mapping[str, tuple[str, ...]] = {
    "any": (),
    "bool": ("bool_type", "bool_parsing"),
    "bytes": (),  # behind a validator of ours, which gives bytes
    "datetime": ("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "datetime_object_invalid"),
    "default": (),
    "definition-ref": (),
    "definitions": (),
    "dict": ("dict_type",),
    "enum": ("enum",),
    "float": ("float_type", "float_parsing", "finite_number"),
    "function-after": ("value_error",),
    "function-before": ("value_error",),
    "function-plain": ("value_error",),
    "function-wrap": ("value_error",),
    "int": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "list": ("list_type",),
    "literal": ("literal_error",),
    "model": ("model_type", "model_attributes_type"),
    "model-field": ("missing",),
    "model-fields": ("extra_forbidden",),
    "none": (),
    "nullable": (),
    "str": ("string_type", "string_unicode"),
    "tuple": ("tuple_type",),
    "union": (),  # only of the kinds of a field's value, which a validator of ours checks before
    "uuid": ("uuid_type", "uuid_parsing"),
}
LIMITS = {
    "ge": "greater_than_equal",
    "gt": "greater_than",
    "le": "less_than_equal",
    "lt": "less_than",
    "pattern": "string_pattern_mismatch",
    "tz_constraint": "timezone_aware",
}
NOT_NODES = {"metadata", "serialization", "function", "json_schema_input_schema", "return_schema", "config", "cls"}


def nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("type"), str):
            yield schema
        for name, value in schema.items():
            if name not in NOT_NODES:
                yield from nodes(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from nodes(value)


def schemas(dependant: Dependant) -> Iterator[Any]:
    for group in (dependant.path_params, dependant.query_params, dependant.header_params, dependant.body_params):
        for parameter in group:
            yield parameter._type_adapter.core_schema
    for inner in dependant.dependencies:
        yield from schemas(inner)


def test_every_error_that_a_request_can_cause_has_words() -> None:
    routes = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    found = [node for route in routes for schema in schemas(route.dependant) for node in nodes(schema)]
    kinds = {node["type"] for node in found}
    assert {"model", "str", "datetime", "uuid", "list", "tuple", "literal", "enum", "bool"} <= kinds, "it looks there"
    assert kinds <= NODES.keys()
    errors = {error for kind in kinds for error in NODES[kind]}
    for node in found:
        errors |= {error for limit, error in LIMITS.items() if limit in node}
        for limit, error in (("max_length", "too_long"), ("min_length", "too_short")):
            if limit in node:
                errors.add(f"string_{error}" if node["type"] == "str" else error)
    assert errors <= wording.WORDS.keys()


MINIMAL: dict[str, Any] = {"name": "n", "from": {"email": "news@example.test"}, "subject": "s", "text": "t"}
ADDRESS = {"email": "a@b.test"}


@pytest.mark.parametrize(
    ("model", "given", "where", "words"),
    [
        (CampaignIn, {**MINIMAL, "name": None}, "name", "must be text, but it is null"),
        (CampaignIn, {**MINIMAL, "name": 7}, "name", "must be text, but it is a number"),
        (CampaignIn, {**MINIMAL, "name": ["x"]}, "name", "must be text, but it is a list"),
        (CampaignIn, {**MINIMAL, "subject": True}, "subject", "must be text, but it is true or false"),
        (CampaignIn, {**MINIMAL, "html": {}}, "html", "must be text, but it is an object"),
        (CampaignIn, {**MINIMAL, "name": " "}, "name", "must not be empty"),
        (CampaignIn, {**MINIMAL, "name": "n" * 201}, "name", "has 201 characters; at most 200 are possible"),
        (CampaignIn, {**MINIMAL, "name": "a\nb"}, "name", "must be one line without control characters"),
        (CampaignIn, {**MINIMAL, "name": "a\ud800"}, "name", "holds half of a character"),
        (CampaignIn, {**MINIMAL, "subjekt": "s"}, "subjekt", "is not known here; remove it, or check its spelling"),
        (CampaignIn, {}, "name", "is missing; add it"),
        (CampaignIn, [], "", "must be a JSON object, but it is a list"),
        (CampaignIn, {**MINIMAL, "from": "a@b.test"}, "from", "is an object, such as"),
        (CampaignIn, {**MINIMAL, "from": 5}, "from", "must be a JSON object, but it is a number"),
        (CampaignIn, {**MINIMAL, "from": {"email": "x"}}, "from/email", "@-sign"),
        (CampaignIn, {**MINIMAL, "reply_to": "x"}, "reply_to", "@-sign"),
        (CampaignIn, {**MINIMAL, "reply_to": {"email": "x"}}, "reply_to/email", "@-sign"),
        (CampaignIn, {**MINIMAL, "reply_to": 5}, "reply_to", "must be a JSON object, but it is a number"),
        (CampaignIn, {**MINIMAL, "attachments": {}}, "attachments", "must be a list, but it is an object"),
        (CampaignIn, {**MINIMAL, "attachments": [{}]}, "attachments/0/filename", "is missing; add it"),
        (
            CampaignIn,
            {**MINIMAL, "attachments": [{"filename": "f", "content": "%"}]},
            "attachments/0/content",
            "is not base64",
        ),
        (CampaignIn, {**MINIMAL, "delivery": "twice"}, "delivery", "must be 'at_least_once' or 'at_most_once'"),
        (CampaignIn, {**MINIMAL, "emails_per_second": 0}, "emails_per_second", "must be greater than 0"),
        (CampaignIn, {**MINIMAL, "emails_per_second": 1e9}, "emails_per_second", "must be at most 1000000"),
        (CampaignIn, {**MINIMAL, "emails_per_second": "fast"}, "emails_per_second", "must be a number, such as 2.5"),
        (CampaignIn, {**MINIMAL, "emails_per_second": [1]}, "emails_per_second", "such as 2.5, but it is a list"),
        (CampaignIn, {**MINIMAL, "emails_per_second": float("nan")}, "emails_per_second", "must be a finite number"),
        (CampaignIn, {**MINIMAL, "priority": 1.5}, "priority", "must be a whole number, such as 3; it has a fraction"),
        (CampaignIn, {**MINIMAL, "priority": "x"}, "priority", "must be a whole number, such as 3"),
        (CampaignIn, {**MINIMAL, "priority": None}, "priority", "such as 3, but it is null"),
        (CampaignIn, {**MINIMAL, "priority": "9" * 5000}, "priority", "has too many digits; give a smaller number"),
        (CampaignIn, {**MINIMAL, "priority": -101}, "priority", "must be at least -100"),
        (CampaignIn, {**MINIMAL, "recipients": [5]}, "recipients/0", "must be a JSON object, but it is a number"),
        (CampaignIn, {**MINIMAL, "recipients": [{}]}, "recipients/0/email", "is missing; add it"),
        (CampaignIn, {**MINIMAL, "recipients": [ADDRESS] * 1001}, "recipients", "1001 items; at most 1000 are"),
        (
            CampaignIn,
            {**MINIMAL, "recipients": [{**ADDRESS, "tags": ["x"]}]},
            "recipients/0/data/tags",
            "must be text, a number, true, false or null, but it is a list",
        ),
        (BodyOfTest, {"recipients": []}, "recipients", "must not be empty"),
        (BodyOfTest, {"recipients": [{**ADDRESS, "data": "x"}]}, "recipients/0/data", "but it is text"),
        (CampaignPatch, {"name": ""}, "name", "must not be empty"),
        (SendIn, {"scheduled_at": "soon"}, "scheduled_at", "such as 2030-01-31T09:00:00+03:00"),
        (SendIn, {"scheduled_at": "2030-01-31"}, "scheduled_at", "needs a time zone"),
        (SendIn, {"scheduled_at": "2030-01-31T09:00:00"}, "scheduled_at", "needs a time zone: add Z"),
        (SendIn, {"scheduled_at": []}, "scheduled_at", "must be a date and time with a zone"),
        (SendIn, {"scheduled_at": 1e300}, "scheduled_at", "must be a date and time with a zone"),
        (SendIn, {"scheduled_at": "9999-01-01T00:00:00Z"}, "scheduled_at", "lies beyond the year 9998"),
        (ReopenIn, {"deliver_by": True}, "deliver_by", "must be a date and time with a zone"),
        (PreviewIn, {"data": {"x": {}}}, "data/x", "must be text, a number, true, false or null, but it is an object"),
        (PreviewIn, {"data": []}, "data", "must be a JSON object, but it is a list"),
        (SuppressionsIn, {}, "", "give either `email`, or a list of `suppressions`"),
    ],
)
def test_what_is_wrong_with_a_body(model: type[Body], given: Any, where: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    first = caught.value.errors()[0]
    assert "/".join(map(str, wording.path_of(first))) == where
    assert words in wording.in_our_words(first)


def test_one_value_of_the_wrong_kind_is_one_error() -> None:
    with pytest.raises(ValidationError) as caught:
        PreviewIn.model_validate({"data": {"x": [], "y": "fine"}})
    assert len(caught.value.errors()) == 1


def test_a_form_names_its_field_and_what_is_wrong_with_it() -> None:
    with pytest.raises(FormError) as caught:
        validated(CampaignIn, {**MINIMAL, "emails_per_second": "many", "name": ""})
    assert caught.value.detail == "name: must not be empty (and 1 more)"
    assert caught.value.errors[1] == {"pointer": "#/emails_per_second", "detail": "must be a number, such as 2.5"}


# Since Python 3.13, json names a comma before a closing bracket.
NAMES_COMMAS = sys.version_info >= (3, 13)
COMMA = "{}: a comma stands before the closing bracket; remove it"
NAME = "{}: the name of a member is expected here, in double quotes"
VALUE = "{}: a value is expected here"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("", "line 1, column 1: a value is expected here"),
        ('{"a": 1,}', f"line 1, column {COMMA.format(8) if NAMES_COMMAS else NAME.format(9)}"),
        ("{'a': 1}", "line 1, column 2: the name of a member is expected here, in double quotes"),
        ('{"a" 1}', "line 1, column 6: a colon is expected here"),
        ('{"a": 1\n "b": 2}', "line 2, column 2: a comma is expected here"),
        ('["a', "line 1, column 2: this text has no closing double quote"),
        ('["a\nb"]', "line 1, column 4: a line break or control character stands inside text"),
        ('["\\x"]', "line 1, column 3: a backslash stands before a character that it cannot escape"),
        ('["\\u12"]', "line 1, column 4: \\u is not followed by four hexadecimal digits"),
        ("[1,]", f"line 1, column {COMMA.format(3) if NAMES_COMMAS else VALUE.format(4)}"),
        ("{} {}", "line 1, column 4: the JSON ends before this; remove what follows"),
        ("[True]", "line 1, column 2: a value is expected here"),
    ],
)
def test_what_is_wrong_with_json(document: str, expected: str) -> None:
    with pytest.raises(JSONDecodeError) as caught:
        json.loads(document)
    assert place_and_reason(caught.value).startswith(expected)


def test_the_example_of_a_moment_is_one() -> None:
    example = "2030-01-31T09:00:00+03:00"
    assert SendIn.model_validate({"scheduled_at": example}).scheduled_at == datetime.fromisoformat(example)
