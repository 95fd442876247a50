"""CSV (RFC 4180) in UTF-8: a header with a column `email`; every other column is a merge field.

Commas, semicolons or tabs; quoted fields may hold any of them, and line breaks. A file that breaks these rules is
refused whole: a field in the wrong column would greet people by somebody else's name.
"""

import csv
from collections.abc import Iterator

from services.api.formats.parser import (
    MAX_LINE_BYTES,
    Collector,
    Lines,
    MalformedError,
    Parsed,
    UnknownFieldError,
    not_utf8,
)
from shared.templates import Content

DELIMITERS = (",", ";", "\t")
EMAIL = "email"


class CsvParser:
    def __init__(self, content: Content) -> None:
        self._content = content
        self._collector = Collector(content)
        self._lines = Lines()
        self._texts: list[str] = []  # lines that are not read yet: a record whose quotes are still open
        self._first = 1  # the number of the first of them
        self._delimiter = ""
        self._columns: list[str] = []

    def feed(self, piece: bytes) -> Parsed:
        return self._read(self._lines.feed(piece), last=False)

    def finish(self) -> Parsed:
        parsed = self._read(self._lines.finish(), last=True)
        if not self._columns:
            raise MalformedError(1, f"the file is empty; its first line names the columns, {EMAIL} among them")
        return parsed

    def _read(self, lines: list[bytes], *, last: bool) -> Parsed:
        number = self._lines.count
        for line in lines:
            number += 1
            try:
                self._texts.append(line.decode() + "\n")
            except UnicodeDecodeError as error:
                raise not_utf8(number, error) from None
        self._lines.count = number
        if not self._columns:
            self._read_header()
        if self._columns:
            self._read_records(last=last)
        return self._collector.take()

    def _read_header(self) -> None:
        while self._texts and not self._columns:
            header = self._texts.pop(0)
            if header.strip():
                self._choose_columns(header)
            self._first += 1

    def _choose_columns(self, header: str) -> None:
        choices = {delimiter: _names(header, delimiter, self._first) for delimiter in DELIMITERS}
        self._delimiter = next((delimiter for delimiter, names in choices.items() if EMAIL in names), "")
        if not self._delimiter:
            names = max(choices.values(), key=len)
            raise MalformedError(
                self._first,
                f"no column is named {EMAIL!r}; the first line names the columns, here: {', '.join(names)[:300]}",
            )
        names = choices[self._delimiter]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice:
            raise MalformedError(self._first, f"two columns are named {twice!r}; rename one")
        self._columns = names
        for use in self._content.missing(names):
            raise UnknownFieldError(
                use, ", ".join(name for name in names if name not in ("", EMAIL)) or "there are none"
            )

    def _read_records(self, *, last: bool) -> None:
        source = _Source(self._texts)
        reader = csv.reader(source, delimiter=self._delimiter, strict=True)
        done = 0
        try:
            for record in reader:
                self._add(self._first + done, record)
                done = reader.line_num
        except csv.Error as error:
            if "field larger" in str(error):
                reason = f"begins a field of more than {csv.field_size_limit()} characters; is a quote never closed?"
                raise MalformedError(self._first + done, reason) from None
            if not source.exhausted:
                raise MalformedError(self._first + reader.line_num - 1, f"is not CSV: {error}") from None
            if last:
                raise MalformedError(self._first + done, "opens a quote that is never closed") from None
        self._texts = self._texts[done:]
        self._first += done
        if sum(map(len, self._texts)) > MAX_LINE_BYTES:
            raise MalformedError(self._first, f"opens a quote that is not closed within {MAX_LINE_BYTES} characters")

    def _add(self, line: int, record: list[str]) -> None:
        if len(record) != len(self._columns):
            if len(record) > 1 or (record and record[0].strip()):
                raise MalformedError(
                    line,
                    f"has {len(record)} fields, the header {len(self._columns)}; quote a field that holds a delimiter",
                )
            return  # an empty line
        fields = dict(zip(self._columns, record, strict=True))
        email = fields.pop(EMAIL)
        fields.pop("", None)
        self._collector.add(line, email, fields)


class _Source:
    """Lines for csv.reader, which pulls; knows whether it asked for more than there is."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = iter(lines)
        self.exhausted = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            self.exhausted = True
            raise


def _names(header: str, delimiter: str, line: int) -> list[str]:
    """The column names; the one of the address in whatever case is `email`."""
    try:
        record = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        if delimiter != DELIMITERS[-1]:
            return []
        raise MalformedError(line, f"is not CSV: {error}") from None
    names = [name.strip() for name in record]
    return [EMAIL if name.lower() == EMAIL else name for name in names]
