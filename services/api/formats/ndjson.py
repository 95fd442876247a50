"""NDJSON: one JSON object a line, `{"email": ..., "data": {...}}` or flat, in UTF-8."""

from typing import Any

import orjson

from services.api.formats.charsets import not_utf8
from services.api.formats.options import NO_OPTIONS, ReadOptions
from services.api.formats.parser import Collector, Lines, MalformedError, Parsed
from shared.templates import Content


class NdjsonParser:
    def __init__(self, content: Content, options: ReadOptions = NO_OPTIONS) -> None:
        self._collector = Collector(content, options)
        self._options = options
        self._lines = Lines()

    def feed(self, piece: bytes) -> Parsed:
        self._read(self._lines.feed(piece))
        return self._collector.take()

    def finish(self) -> Parsed:
        self._read(self._lines.finish())
        self._collector.require_seen()
        return self._collector.take()

    def _read(self, lines: list[bytes]) -> None:
        number = self._lines.count
        for position, line in enumerate(lines):
            number += 1
            try:
                given = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if not line.strip():
                    continue
                raise _malformed(number, b"".join(lines[position : position + 100]), line, error) from None
            if type(given) is not dict:
                raise MalformedError(number, 'is not a JSON object; each line is one, such as {"email": "..."}')
            collect(self._collector, self._options, number, given)
        self._lines.count = number


def collect(collector: Collector, options: ReadOptions, line: int, given: dict[str, Any]) -> None:
    """One recipient object: its address, and its fields flat or under `data`."""
    if options.columns:
        given = {options.columns.get(name, name): value for name, value in given.items()}
    email = given.pop("email", None)
    data = given.pop("data", None)
    if data is None:
        fields = given
    elif type(data) is dict:
        fields = {**given, **data} if given else data
    else:
        collector.refuse(line, "`data` is not an object of fields.", email)
        return
    collector.add(line, email, fields)


def _malformed(number: int, sample: bytes, line: bytes, error: orjson.JSONDecodeError) -> MalformedError:
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return not_utf8(number, undecodable, sample)
    return MalformedError(number, f"is not JSON: {error.msg} at column {error.colno}")
