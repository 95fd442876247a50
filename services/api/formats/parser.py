"""What the parsers of all formats share."""

import codecs
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.api.formats.new_recipient import NewRecipient, RecipientError, check_recipient
from services.api.formats.options import ReadOptions, as_boolean
from shared.errors import DataError
from shared.templates import Content, FieldUse

MAX_LINE_BYTES = 1_000_000
MAX_SHOWN = 200


class MalformedError(DataError):
    """The file cannot be read from this line on, so none of it is imported. `whole`: the reason is about the file."""

    def __init__(self, line: int, reason: str, *, whole: bool = False) -> None:
        super().__init__(f"the file {reason}" if whole else f"line {line} {reason}")
        self.line = line


class UnknownFieldError(DataError):
    """The message needs a field that the file does not have."""

    def __init__(self, use: FieldUse, known: str) -> None:
        super().__init__(f"{use.name!r} is not among the fields of the file ({known})")
        self.use = use
        self.known = known


@dataclass(slots=True)
class LineProblem:
    """One line that was left out. `value` is what stood there as the address, cut."""

    line: int
    error: str
    value: str | None = None


@dataclass(slots=True)
class Parsed:
    """What a piece of the file held: rows to store, and lines that are not usable."""

    rows: list[NewRecipient] = field(default_factory=list)
    problems: list[LineProblem] = field(default_factory=list)


class Parser(Protocol):
    """A parser is pushed pieces of the file in order. Both methods raise MalformedError and UnknownFieldError."""

    def __init__(self, content: Content, options: ReadOptions = ...) -> None: ...

    def feed(self, piece: bytes) -> Parsed: ...

    def finish(self) -> Parsed:
        """What was left when the file ended."""
        ...


class Collector:
    """Turns addresses with their fields into rows."""

    def __init__(self, content: Content, options: ReadOptions) -> None:
        self._content = content
        self._booleans = options.booleans
        self._unseen = {use.name for use in content.missing(())}
        self._parsed = Parsed()

    def take(self) -> Parsed:
        """What was collected since the last time."""
        parsed, self._parsed = self._parsed, Parsed()
        return parsed

    def add(self, line: int, email: object, fields: dict[str, Any]) -> None:
        if self._unseen:
            self._unseen.difference_update(fields)
        try:
            if self._booleans:
                self._read_booleans(fields)
            self._parsed.rows.append(check_recipient(line, email, fields, self._content))
        except RecipientError as error:
            self.refuse(line, error.reason, email)

    def refuse(self, line: int, reason: str, email: object = None) -> None:
        value = None if email is None else str(email)[:MAX_SHOWN]
        self._parsed.problems.append(LineProblem(line, reason, value))

    def require_seen(self) -> None:
        """Raises UnknownFieldError where the message needs a field that no recipient had."""
        for use in self._content.missing(()):
            if use.name in self._unseen:
                raise UnknownFieldError(use, "no line has it")

    def _read_booleans(self, fields: dict[str, Any]) -> None:
        for name in self._booleans & fields.keys():
            try:
                fields[name] = as_boolean(fields[name])
            except ValueError:
                shown = str(fields[name])[:MAX_SHOWN]
                raise RecipientError(
                    f"{shown!r} in {name!r} is neither yes nor no (true, false, 1, 0).", name
                ) from None


class Lines:
    """Cuts pushed bytes into lines, each with its end; a byte order mark is dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False
        self.count = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are complete now. They end in LF, CR LF or CR."""
        if not self._started:
            piece = self._rest + piece
            self._rest = b""
            if len(piece) < 3:
                self._rest = piece
                return []
            piece = self._begin(piece)
        lines = (self._rest + piece).splitlines(keepends=True)
        # A CR at the end of the piece may be half of a CR LF.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(self._rest) > MAX_LINE_BYTES:
            raise MalformedError(self.count + len(lines) + 1, f"is longer than {MAX_LINE_BYTES} bytes")
        return lines

    def finish(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        if not self._started:
            rest = self._begin(rest)
        return [rest] if rest else []

    def _begin(self, piece: bytes) -> bytes:
        self._started = True
        return piece.removeprefix(codecs.BOM_UTF8)
