"""Files as people export them, and what must come of each: see tests/corpus/imports.json."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api.formats.charsets import as_utf8, known_charset
from services.api.formats.csv_table import CsvParser
from services.api.formats.json_list import JsonParser
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.options import read_options
from services.api.formats.parser import MalformedError, Parsed, Parser
from services.api.formats.unpack import unpack
from shared.templates import compile_content

CORPUS = Path(__file__).parent.parent / "corpus"
CASES: list[dict[str, Any]] = [
    *json.loads((CORPUS / "imports.json").read_text(encoding="utf-8")),
    *json.loads((CORPUS / "libreoffice.json").read_text(encoding="utf-8")),
]
FOLDERS = ("imports", "libreoffice")
ENDINGS: dict[str, type[Parser]] = {".ndjson": NdjsonParser, ".json": JsonParser}
CONTENT = compile_content("News", None, "Hello.")


@pytest.mark.parametrize("cut_bytes", [1_000_000, 3], ids=["whole", "in-pieces"])
@pytest.mark.parametrize("case", CASES, ids=[case["file"] for case in CASES])
async def test_what_comes_of_a_file(case: dict[str, Any], cut_bytes: int) -> None:
    if "error" in case:
        with pytest.raises(MalformedError) as caught:
            await read(case, cut_bytes)
        assert case["error"] in str(caught.value)
        if cut_bytes > 3:  # an offer needs more of the file than its first bytes
            assert case.get("offers", "") in str(caught.value)
        assert case["line"] in (None, caught.value.line)
        return
    parsed = await read(case, cut_bytes)
    shown = [[row.line, row.email, json.loads(row.data) if row.data else {}] for row in parsed.rows]
    assert shown == case["rows"]
    expected = case.get("problems", [])
    assert [problem.line for problem in parsed.problems] == [line for line, _ in expected]
    for problem, (_, words) in zip(parsed.problems, expected, strict=True):
        assert words in problem.error


async def read(case: dict[str, Any], cut_bytes: int) -> Parsed:
    """Reads a file of the corpus the way an import does."""
    path = next(path for folder in FOLDERS if (path := CORPUS / folder / case["file"]).exists())
    options = dict(case.get("options", {}))
    charset = options.pop("charset", None)
    upload = await unpack(pieces(path.read_bytes(), cut_bytes))
    name = upload.name or case["file"].removesuffix(".gz")
    parser = ENDINGS.get(Path(name).suffix, CsvParser)(CONTENT, read_options(**options))
    whole = Parsed()
    async for block in as_utf8(upload.blocks, known_charset(charset) if charset else None):
        add(whole, parser.feed(block))
    return add(whole, parser.finish())


async def pieces(document: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(document), size):
        yield document[start : start + size]


def add(whole: Parsed, piece: Parsed) -> Parsed:
    whole.rows += piece.rows
    whole.problems += piece.problems
    return whole


def test_the_corpus_is_of_the_size_it_is_said_to_be() -> None:
    assert len(CASES) >= 120
    assert len({case["file"] for case in CASES}) == len(CASES)
    kept = {path.name for folder in FOLDERS for path in (CORPUS / folder).iterdir()}
    assert kept == {case["file"] for case in CASES}
