"""The API reference: an example of every request, and every shape that it names."""

import re
from typing import Any

from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from scripts.api_reference import METHODS, contract, examples, reference
from services.api.rest import mount


def test_every_request_has_one_example() -> None:
    """And no example is of a request that is not there."""
    paths = contract()["paths"]
    requests = [f"{method.upper()} {path}" for path in paths for method in METHODS if method in paths[path]]
    assert sorted(example.request for example in examples()) == sorted(requests)


def test_the_page_shows_each_example_and_every_shape_that_it_links_to() -> None:
    page = reference(contract())
    for example in examples():
        assert f"**`{example.request}`**" in page
        assert f"```sh\n{example.text}\n```" in page
    linked = set(re.findall(r"\[(\w+)\]\(#\w+\)", page))
    assert {"CampaignOut", "CampaignStatus", "Problem"} <= linked
    assert linked <= set(re.findall(r"^### (\w+)$", page, re.MULTILINE))


def test_a_request_that_may_say_nothing_needs_no_body() -> None:
    """`curl -X POST` does the same as `{}` where every field has a default."""
    optional, not_needed = set(), set()
    for route in (one for part in mount.PARTS for one in part.router.routes if isinstance(one, APIRoute)):
        body = route.body_field
        if body is None or "POST" not in (route.methods or ()):
            continue
        if not body.field_info.is_required():
            optional.add(route.path)
        shape: Any = body.field_info.annotation
        try:
            TypeAdapter(shape).validate_python({})
            not_needed.add(route.path)
        except ValidationError:
            continue
    assert "/v1/domains/{domain}/check" in optional
    assert optional == not_needed
