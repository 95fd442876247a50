"""Templates as people bring them, and what must come of each.

A file of `tests/corpus/templates` holds cases under `=== name`. Their parts are `--- subject`, `--- html`, `--- text`
and `--- data` (added to DATA), and what is expected: `--- as text` (the rendered text), `--- in html` (stands in the
rendered HTML), `--- warns` (each line ends one warning, or stands in it), `--- problem` (stands in what is wrong with
the data) or `--- error` (part, line and column, and words of the error).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shared.templates import TemplateError, Value, compile_content

CORPUS = Path(__file__).parent.parent / "corpus" / "templates"
DATA: Mapping[str, Value] = {
    "name": "Ann",
    "city": "Łódź",
    "vip": "1",
    "orders": "7",
    "link": "https://shop.example/a?b=1&c=2",
    "code": "A<B",
}
BUILT_IN: Mapping[str, Value] = {"email": "ann@example.org", "unsubscribe_url": "https://mail.example.com/u/t"}
Case = Mapping[str, str]


def cases() -> Iterator[tuple[str, Case]]:
    for path in sorted(CORPUS.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").split("=== ")[1:]:
            name, _, body = block.partition("\n")
            parts = re.split(r"^--- ([a-z ]+)\n", body, flags=re.MULTILINE)
            yield f"{path.stem}/{name}", dict(zip(parts[1::2], (part[:-1] for part in parts[2::2]), strict=True))


CASES = list(cases())


@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_what_comes_of_a_template(name: str, case: Case) -> None:
    subject, html, text = case.get("subject", "News"), case.get("html"), case.get("text")
    if "error" in case:
        with pytest.raises(TemplateError) as caught:
            compile_content(subject, html, text)
        place, _, words = case["error"].partition(" ")[2].partition(" ")
        assert f"{caught.value.part} {caught.value.line}:{caught.value.column}" == f"{case['error'].split()[0]} {place}"
        assert words in caught.value.message
        return
    content = compile_content(subject, html, text)
    warned = [warning.message for warning in content.warnings]
    expected = case.get("warns", "").splitlines()
    assert len(warned) == len(expected), warned
    assert all(words in message for words, message in zip(expected, warned, strict=True)), warned
    data = {**DATA, **json.loads(case.get("data", "{}"))}
    problem = content.problem(data)
    assert case.get("problem", "") in (problem.message if problem else "")
    if "problem" in case:
        assert problem is not None
        return
    assert problem is None
    assert content.text.render({**data, **BUILT_IN}).strip("\n") == case["as text"].strip("\n")
    if content.html:
        rendered = content.html.render({**data, **BUILT_IN})
        assert all(words in rendered for words in case.get("in html", "").splitlines())


def test_the_corpus_is_large_and_no_two_templates_are_alike() -> None:
    assert len(CASES) >= 150
    assert len({tuple(sorted(case.items())) for _, case in CASES}) == len(CASES)
