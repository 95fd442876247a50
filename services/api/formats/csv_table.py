"""CSV (RFC 4180) as spreadsheets and exports write it: a header that names the columns, one of them the address; every
other column is a field of the message.

The delimiter is the one under which the header has a column for the address. Any line ends, spaces around quoted cells,
and cells that are missing or too many at the end of a row are read as their authors meant them. A file that leaves room
for doubt is refused whole: a cell in the wrong column would greet people by another person's name.
"""

import csv
import re
from collections.abc import Iterator
from itertools import chain

from services.api.formats.charsets import not_utf8
from services.api.formats.options import EMAIL, NO_OPTIONS, ReadOptions, clean_name
from services.api.formats.parser import MAX_LINE_BYTES, Collector, Lines, MalformedError, Parsed, UnknownFieldError
from shared.templates import Content

DELIMITERS = (",", ";", "\t", "|")
MAX_COLUMNS = 1000
MAX_NAMED = 300

# How exports call the column of the address, without signs and in lower case.
SYNONYMS = frozenset(
    (
        "mail", "email", "emails", "emailaddress", "mailaddress", "emailadress", "emailadresse", "mailadresse",
        "adresseemail", "adressemail", "courriel", "correo", "correoelectronico", "correoelectrónico", "eposta",
        "epost", "sähköposti", "indirizzoemail", "adresemail", "subscriber", "subscriberemail", "contactemail",
        "useremail", "customeremail", "primaryemail", "workemail", "почта", "электроннаяпочта", "адресэлектроннойпочты",
        "емейл", "имейл", "эмейл", "адресemail", "адреспочты", "емайл", "пошта", "邮箱", "电子邮件", "邮件地址",
        "メール", "メールアドレス", "이메일",
    )
)  # fmt: skip

# As Excel reads it; other delimiters behind it are the empty cells of a row.
_SEPARATOR_LINE = re.compile(r'"?sep=[ ]*(\\t|.)"?[\s,;|]*', re.IGNORECASE)
# How a spreadsheet is told that a cell is text, so that 0123 keeps its zero.
_TEXT_CELL = re.compile(r'="([^"]*)"')
LINES_TRIED = 20
_NO_CSV = (
    (("[", "{"), "is JSON, not CSV; send it as application/json, or as application/x-ndjson if each line is an object"),
    (("<",), "is HTML or XML, which some programs save under the name of a table; save it as CSV UTF-8"),
    (("BEGIN:VCARD",), "is a vCard; export the addresses as CSV"),
)


class CsvParser:
    def __init__(self, content: Content, options: ReadOptions = NO_OPTIONS) -> None:
        self._content = content
        self._options = options
        self._collector = Collector(content, options)
        self._lines = Lines()
        self._texts: list[str] = []  # lines that are not read yet: a record whose quotes are still open
        self._first = 1  # the number of the first of them
        self._delimiters: tuple[str, ...] = DELIMITERS
        self._delimiter = ""
        self._fields: list[str] = []  # the field each column fills; empty where a column has no name
        self._spaces: _Spaces

    def feed(self, piece: bytes) -> Parsed:
        return self._read(self._lines.feed(piece), last=False)

    def finish(self) -> Parsed:
        parsed = self._read(self._lines.finish(), last=True)
        if not self._fields:
            raise MalformedError(1, f"is empty; its first line names the columns, {EMAIL} among them", whole=True)
        return parsed

    def _read(self, lines: list[bytes], *, last: bool) -> Parsed:
        try:
            self._texts += [line.decode() for line in lines]
        except UnicodeDecodeError as error:
            raise self._undecodable(lines, error) from None
        self._lines.count += len(lines)
        if not self._fields:
            self._read_header(last=last)
        if self._fields:
            self._read_records(last=last)
        if sum(map(len, self._texts)) > MAX_LINE_BYTES:
            raise MalformedError(self._first, f"opens a quote that is not closed within {MAX_LINE_BYTES} characters")
        return self._collector.take()

    def _undecodable(self, lines: list[bytes], error: UnicodeDecodeError) -> MalformedError:
        at = lines.index(error.object)
        return not_utf8(self._lines.count + at + 1, error, b"".join(lines[at : at + 100]))

    def _read_header(self, *, last: bool) -> None:
        while not self._fields:
            self._drop(next((count for count, text in enumerate(self._texts) if clean_name(text)), len(self._texts)))
            if not self._texts:
                return
            if separator := _SEPARATOR_LINE.fullmatch(self._texts[0]):
                declared = "\t" if separator[1] == "\\t" else separator[1]
                self._delimiters = (declared,)
                self._drop(1)
            elif not self._choose_columns(last=last):
                return

    def _choose_columns(self, *, last: bool) -> bool:
        """Reads the header under each delimiter. False: it goes on in lines that have not arrived."""
        headers = [(delimiter, _header(self._texts, delimiter)) for delimiter in self._delimiters]
        named = [(delimiter, header) for delimiter, header in headers if header and self._has_address(header.names)]
        if not named:
            if not last and any(header and header.is_open for _, header in headers):
                return False
            raise self._no_address([header for _, header in headers if header])
        self._delimiter, header = named[0]
        self._spaces = _Spaces(self._delimiter)
        self._name_columns(header.names)
        self._drop(header.lines)
        return True

    def _has_address(self, names: list[str]) -> bool:
        return any(self._options.field_of(name) == EMAIL for name in names)

    def _no_address(self, headers: "list[_Header]") -> MalformedError:
        if not headers or any(header.is_open for header in headers):
            return MalformedError(self._first, "is not CSV: it opens a quote that is never closed")
        for starts, reason in _NO_CSV:
            if self._texts[0].lstrip().startswith(starts):
                return MalformedError(1, reason, whole=True)
        names = [name for name in max((header.names for header in headers), key=len) if name]
        shown = ", ".join(names)[:MAX_NAMED]
        if self._options.names_address:
            wanted = next(column for column, field in self._options.columns.items() if field == EMAIL)
            return MalformedError(self._first, f"names no column {wanted!r}; the columns here: {shown}")
        alike = next((name for name in names if _looks_like_address(name)), None)
        if alike is not None:
            offer = f"if {alike!r} holds the addresses, repeat it with ?email_column={alike}"
        elif any("@" in name for name in names):
            offer = f"it holds an address itself: put a line of column names before it, such as {EMAIL},first_name"
        elif (later := self._names_address_later()) is not None:
            offer = f"line {later} does: delete the lines before it"
        else:
            offer = "rename the column of the addresses, or name it with ?email_column="
        return MalformedError(self._first, f"names no column {EMAIL!r}; the columns here: {shown}; {offer}")

    def _names_address_later(self) -> int | None:
        """The line that is the header after all, where a title or a comment stands before it."""
        for count, text in enumerate(self._texts[1:LINES_TRIED], 1):
            for delimiter in self._delimiters:
                header = _header([text], delimiter)
                if header and self._has_address(header.names):
                    return self._first + count
        return None

    def _name_columns(self, names: list[str]) -> None:
        if len(names) > MAX_COLUMNS:
            raise MalformedError(self._first, f"names {len(names)} columns; at most {MAX_COLUMNS} are read")
        missing = next((column for column in self._options.columns if column not in names), None)
        if missing is not None:
            shown = ", ".join(name for name in names if name)[:MAX_NAMED]
            raise MalformedError(self._first, f"names no column {missing!r}; the columns here: {shown}")
        fields = [self._options.field_of(name) if name else "" for name in names]
        twice = next((field for field in fields if field and fields.count(field) > 1), None)
        if twice:
            raise MalformedError(self._first, f"names two columns {twice!r}; rename one")
        undeclared = self._options.booleans.difference(fields)
        if undeclared:
            raise MalformedError(self._first, f"names no column {min(undeclared)!r}, which ?types= declares")
        self._fields = fields
        for use in self._content.missing(fields):
            known = ", ".join(field for field in fields if field not in ("", EMAIL))
            raise UnknownFieldError(use, known or "there are none")

    def _drop(self, lines: int) -> None:
        del self._texts[:lines]
        self._first += lines

    def _read_records(self, *, last: bool) -> None:
        if last and self._texts:
            self._texts[-1] = self._texts[-1].rstrip("\x1a\0")  # ends and fills files of old programs
        lines, has_text_cells = self._texts, False
        if '"' in (text := "".join(lines)):
            lines, has_text_cells = self._spaces.trim(lines, text), '="' in text
        source = _Source()
        reader = csv.reader(source.of(lines), delimiter=self._delimiter, strict=True)
        done = 0
        try:
            for record in reader:
                if has_text_cells:
                    record = [_TEXT_CELL.sub(r"\1", cell) if cell[:2] == '="' else cell for cell in record]
                self._add(self._first + done, record)
                done = reader.line_num
        except csv.Error as error:
            if "field larger" in str(error):
                reason = f"begins a cell of more than {csv.field_size_limit()} characters; is a quote never closed?"
                raise MalformedError(self._first + done, reason) from None
            if not source.exhausted:
                raise MalformedError(
                    self._first + reader.line_num - 1,
                    f"is not CSV: {error}; a quote inside a quoted cell is written twice",
                ) from None
            if last:
                raise MalformedError(self._first + done, "opens a quote that is never closed") from None
        self._drop(done)

    def _add(self, line: int, record: list[str]) -> None:
        columns = len(self._fields)
        if len(record) > columns:
            if any(cell.strip() for cell in record[columns:]):
                raise MalformedError(
                    line, f"has {len(record)} cells, the header {columns}; quote a cell that holds a delimiter"
                )
        elif len(record) < columns:
            if not any(record):
                return  # an empty line
            record += [""] * (columns - len(record))
        fields = dict(zip(self._fields, record, strict=False))
        email = fields.pop(EMAIL)
        fields.pop("", None)
        if not email and not any(record):
            return
        self._collector.add(line, email, fields)


class _Header:
    """The names of the columns under one delimiter."""

    def __init__(self, record: list[str], lines: int, *, is_open: bool) -> None:
        self.names = [clean_name(name) for name in record]
        self.lines = lines  # how many lines of the file it takes
        self.is_open = is_open  # a quote is open at the end of what has arrived


def _header(texts: list[str], delimiter: str) -> _Header | None:
    """The first record of these lines; None where they are no CSV with this delimiter."""
    source = _Source()
    lines = source.of(_Spaces(delimiter).trim(texts, "".join(texts)))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        record = next(reader)
    except csv.Error:
        return _Header([], 0, is_open=True) if source.exhausted else None
    return _Header(record, reader.line_num, is_open=False)


class _Spaces:
    """Takes away spaces around quoted cells, which RFC 4180 does not know and people write: `"a" , "b"`."""

    def __init__(self, delimiter: str) -> None:
        blank = r"[ \u00a0]" if delimiter == "\t" else r"[ \t\u00a0]"
        cut = re.escape(delimiter)
        # One cell from its beginning: quoted with spaces around it, or whatever else.
        self._cell = re.compile(rf'{blank}*("(?:[^"]|"")*"){blank}*(?=[{cut}\r\n]|\Z)|[^{cut}\r\n]+')
        # What `_anywhere` needs to match: a plain search is several times as fast.
        self._pairs = [pair for sign in " \t\u00a0".replace(delimiter, "") for pair in (f'{sign}"', f'"{sign}')]
        self._anywhere = re.compile(rf'(?:[{cut}\r\n]|\A){blank}+"|"{blank}+(?:[{cut}\r\n]|\Z)')

    def trim(self, lines: list[str], text: str) -> list[str]:
        """The same lines, which make up `text`; the line ends stay where they are."""
        if not any(pair in text for pair in self._pairs) or self._anywhere.search(text) is None:
            return lines
        return _cut(self._cell.sub(lambda cell: cell[1] or cell[0], text))


_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def _cut(text: str) -> list[str]:
    """Lines with their ends. `str.splitlines` would cut at form feeds and other signs as well."""
    return _LINE.findall(text)


class _Source:
    """Lines for csv.reader, which pulls; knows whether it asked for more than there is."""

    def __init__(self) -> None:
        self.exhausted = False

    def of(self, lines: list[str]) -> Iterator[str]:
        return chain(lines, self._end())

    def _end(self) -> Iterator[str]:
        self.exhausted = True
        yield from ()


def _looks_like_address(name: str) -> bool:
    return "".join(letter for letter in name.lower() if letter.isalpha()) in SYNONYMS
