"""The API reference: an example of every request, and every shape that it names."""

import re

from scripts.api_reference import METHODS, contract, examples, reference


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
