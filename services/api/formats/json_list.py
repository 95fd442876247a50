"""JSON: a list of recipient objects, or `{"recipients": [...]}`; read whole, so bounded.

The line of a problem is the number of the item."""

import orjson

from services.api.formats.charsets import not_utf8
from services.api.formats.ndjson import collect
from services.api.formats.options import NO_OPTIONS, ReadOptions
from services.api.formats.parser import Collector, MalformedError, Parsed
from shared.templates import Content


class JsonParser:
    def __init__(self, content: Content, options: ReadOptions = NO_OPTIONS) -> None:
        self._collector = Collector(content, options)
        self._options = options
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> Parsed:
        self._pieces.append(piece)
        return Parsed()

    def finish(self) -> Parsed:
        document = b"".join(self._pieces).removeprefix(b"\xef\xbb\xbf")
        try:
            given = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            raise _malformed(document, error) from None
        recipients = given.get("recipients") if isinstance(given, dict) else given
        if not isinstance(recipients, list):
            raise MalformedError(1, 'is neither a list of recipients nor {"recipients": [...]}')
        for number, recipient in enumerate(recipients, 1):
            if isinstance(recipient, dict):
                collect(self._collector, self._options, number, recipient)
            else:
                self._collector.refuse(number, "This is not an object with an email address.")
        self._collector.require_seen()
        return self._collector.take()


def _malformed(document: bytes, error: orjson.JSONDecodeError) -> MalformedError:
    try:
        document.decode()
    except UnicodeDecodeError as undecodable:
        at = undecodable.start
        return not_utf8(document.count(b"\n", 0, at) + 1, undecodable, document[max(0, at - 200) :])
    return MalformedError(error.lineno, f"is not JSON: {error.msg} at column {error.colno}")
