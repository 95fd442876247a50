"""Recipient lists in bytes: every format, cut anywhere, gives the same rows; a broken file names its line."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.api.formats.csv_table import CsvParser
from services.api.formats.json_list import JsonParser
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.parser import MAX_LINE_BYTES, MalformedError, Parsed, Parser, UnknownFieldError
from shared.templates import compile_content

PLAIN = compile_content("News", None, "Hello.")
NAMED = compile_content("Hello {{ name }}", None, "Hello {{ city|default('there') }}.")


def read(parser: Parser, document: bytes, cuts: Iterator[int] | None = None) -> Parsed:
    """Everything a file holds, pushed whole or in pieces of the given sizes."""
    whole = Parsed()
    while document:
        size = next(cuts, len(document)) if cuts else len(document)
        piece, document = document[:size], document[size:]
        add(whole, parser.feed(piece))
    return add(whole, parser.finish())


def add(whole: Parsed, piece: Parsed) -> Parsed:
    whole.rows += piece.rows
    whole.problems += piece.problems
    return whole


def rows_of(parsed: Parsed) -> list[tuple[int, str, Any]]:
    return [(row.line, row.email, json.loads(row.data) if row.data else {}) for row in parsed.rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_read_with_its_delimiter_quotes_and_line_ends(delimiter: str, end: str) -> None:
    lines = [
        f"Name{delimiter}EMAIL{delimiter}note",
        f'"Ann{delimiter} the ""first"""{delimiter}ann@example.test{delimiter}',
        "",
        f'Bob{delimiter}bob@example.test{delimiter}"two{end}lines"',
        f"Олег{delimiter}oleg@example.test{delimiter}x",
    ]
    parsed = read(CsvParser(PLAIN), ("\ufeff" + end.join(lines)).encode())
    assert rows_of(parsed) == [
        (2, "ann@example.test", {"Name": f'Ann{delimiter} the "first"', "note": ""}),
        (4, "bob@example.test", {"Name": "Bob", "note": f"two{end}lines"}),
        (6, "oleg@example.test", {"Name": "Олег", "note": "x"}),
    ]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20)
cut_sizes = st.lists(st.integers(1, 50), max_size=30)
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12).filter(
    lambda name: name.lower() != "email" and name.strip() == name and "sep=" not in name.lower()
)


@given(
    st.lists(names, min_size=2, max_size=2, unique=True),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=8),
    cut_sizes,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.integers(0, 2),
)
def test_what_python_writes_as_csv_comes_back_equal_in_any_dialect_and_however_it_is_cut(
    columns: list[str],
    table: list[tuple[str, str]],
    cuts: list[int],
    delimiter: str,
    line_end: str,
    quoting: Any,
    position: int,
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow([*columns[:position], "email", *columns[position:]])
    for number, row in enumerate(table):
        writer.writerow([*row[:position], f"r{number}@example.test", *row[position:]])
    # The csv module writes some values in a way that it reads differently itself, such as LF where rows end in CR.
    own = list(csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=delimiter, strict=True))
    assume(own[0] == [*columns[:position], "email", *columns[position:]])
    assume([[*row[:position], *row[position + 1 :]] for row in own[1:]] == [list(row) for row in table])
    # A column called "," beside the address makes a tab a space around a comma: such a header has two meanings.
    others = [other for other in ",;\t|" if other != delimiter]
    assume(not any(cell.strip('"\t ') == "email" for other in others for cell in file.getvalue().split(other)))
    parsed = read(CsvParser(PLAIN), file.getvalue().encode(), iter(cuts))
    assert not parsed.problems
    expected = [dict(zip(columns, row, strict=True)) for row in table]
    assert [fields for _, _, fields in rows_of(parsed)] == expected


values = st.one_of(
    texts, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
)


@given(
    st.lists(st.dictionaries(texts.filter(lambda name: name not in ("email", "data")), values, max_size=3), max_size=6),
    cut_sizes,
)
def test_ndjson_comes_back_equal_however_it_is_cut(fields: list[dict[str, Any]], cuts: list[int]) -> None:
    document = "\n".join(
        json.dumps({"email": f"r{number}@example.test", "data": data}) for number, data in enumerate(fields)
    )
    parsed = read(NdjsonParser(PLAIN), document.encode(), iter(cuts))
    assert [data for _, _, data in rows_of(parsed)] == fields


@pytest.mark.parametrize("parser", [CsvParser, NdjsonParser, JsonParser])
@given(st.binary(max_size=200), cut_sizes)
def test_any_bytes_end_in_rows_or_in_a_line_that_is_wrong(
    parser: type[Parser], document: bytes, cuts: list[int]
) -> None:
    with suppress(MalformedError):
        read(parser(PLAIN), document, iter(cuts))


def test_merge_fields_of_ndjson_stand_flat_or_under_data() -> None:
    document = b"""{"email": "a@example.test", "name": "Ann"}
{"email": "b@example.test", "data": {"name": "Bob"}}
{"email": "c@example.test", "city": "Rome", "data": {"name": "Cid"}}
{"email": "d@example.test"}
"""
    assert [fields for _, _, fields in rows_of(read(NdjsonParser(PLAIN), document))] == [
        {"name": "Ann"},
        {"name": "Bob"},
        {"city": "Rome", "name": "Cid"},
        {},
    ]


@pytest.mark.parametrize("shape", ['{{"recipients": {}}}', "{}"])
def test_json_is_a_list_or_an_object_that_holds_one(shape: str) -> None:
    document = shape.format('[{"email": "a@example.test", "name": "Ann"}, 5]')
    parsed = read(JsonParser(PLAIN), document.encode())
    assert rows_of(parsed) == [(1, "a@example.test", {"name": "Ann"})]
    assert [problem.line for problem in parsed.problems] == [2]


def test_lines_that_are_not_usable_are_reported_and_the_others_kept() -> None:
    document = b"""{"email": "a@example.test"}
{"email": "no address"}

{"email": 5}
{"name": "nobody"}
{"email": "b@example.test", "data": 5}
{"email": "c@example.test", "list": [1]}
{"email": "d@example.test"}
"""
    parsed = read(NdjsonParser(PLAIN), document)
    assert [row.line for row in parsed.rows] == [1, 8]
    assert [problem.line for problem in parsed.problems] == [2, 4, 5, 6, 7]
    assert parsed.problems[0].value == "no address"


@pytest.mark.parametrize(
    ("parser", "document", "line", "words"),
    [
        (CsvParser, b"", 1, "empty"),
        (CsvParser, b"\n\n", 1, "empty"),
        (CsvParser, b"name,mail\nAnn,a@example.test\n", 1, "'email'"),
        (CsvParser, b"email,x,x\n", 1, "'x'"),
        (CsvParser, b"email,x\na@example.test,1\nb@example.test,2,3\n", 3, "3 cells"),
        (CsvParser, b'email,x\na@example.test,"1\nb@example.test,2\n', 2, "never closed"),
        (CsvParser, b'email,x\na@example.test,"1"2\n', 2, "not CSV"),
        (CsvParser, "email,имя\na@example.test,Анна\n".encode("cp1251"), 1, "UTF-8"),
        (CsvParser, b"email\na@example.test\n\xff@example.test\n", 3, "UTF-8"),
        (NdjsonParser, b'{"email": "a@example.test"}\n{"email": \n', 2, "not JSON"),
        (NdjsonParser, b'{"email": "a@example.test"}\n\n[]\n', 3, "not a JSON object"),
        (NdjsonParser, b'{"email": "\xff"}\n', 1, "UTF-8"),
        (JsonParser, b'[\n{"email": "a@example.test"},\n{"email"}\n]', 3, "not JSON"),
        (JsonParser, b"5", 1, "neither"),
        (JsonParser, b'{"people": []}', 1, "neither"),
        (JsonParser, b'[\n"\xff"]', 2, "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(parser: type[Parser], document: bytes, line: int, words: str) -> None:
    with pytest.raises(MalformedError, match=words) as caught:
        read(parser(PLAIN), document)
    assert caught.value.line == line


@pytest.mark.parametrize("opening", [b'email,x\na@example.test,"', b"email,x\na@example.test,"])
def test_an_endless_line_is_refused_instead_of_kept(opening: bytes) -> None:
    parser = CsvParser(PLAIN)
    parser.feed(opening)
    line = b"x" * 999 + (b"\n" if b'"' in opening else b"x")

    def feed_on() -> None:
        for _ in range(MAX_LINE_BYTES // len(line) + 2):
            parser.feed(line)

    with pytest.raises(MalformedError) as caught:
        feed_on()
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("parser", "document"),
    [
        (CsvParser, b"email,nmae\na@example.test,Ann\n"),
        (NdjsonParser, b'{"email": "a@example.test", "nmae": "Ann"}\n'),
        (JsonParser, b'[{"email": "a@example.test", "nmae": "Ann"}]'),
    ],
)
def test_a_field_the_message_needs_and_the_file_has_not_is_an_error(parser: type[Parser], document: bytes) -> None:
    with pytest.raises(UnknownFieldError) as caught:
        read(parser(NAMED), document)
    assert caught.value.use.name == "name"


def test_one_recipient_without_a_needed_field_is_left_out() -> None:
    parsed = read(NdjsonParser(NAMED), b'{"email": "a@example.test", "name": "Ann"}\n{"email": "b@example.test"}\n')
    assert [row.line for row in parsed.rows] == [1]
    assert "'name'" in parsed.problems[0].error
