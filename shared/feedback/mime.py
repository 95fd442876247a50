"""Takes a mail apart (RFC 2045, 2046, 5322), whatever it is: never an error, and bounded in bytes, parts and depth.

The standard library's parser nests calls as deep as a mail nests parts, and needs three times as long.
"""

import binascii
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_BYTES = 1_000_000
"""Of a mail that are looked at. A report comes first, and then the message that it returns."""

MOST_PARTS = 100
MOST_DEPTH = 8
MOST_HEADERS = 300
LONGEST_HEADER = 4000
MOST_CHARACTERS = 200_000
"""Of the decoded text of one part."""

_FIELD = re.compile(r"([!-9;-~]{1,100})[ \t]*:[ \t]*(.*)", re.DOTALL)
_PARAMETER = re.compile(r';\s*([A-Za-z0-9*-]{1,40})\s*=\s*("[^"]{0,300}"?|[^;\s]{1,300})')
_WORD = re.compile(r"=\?([A-Za-z0-9._-]{1,40})(?:\*[A-Za-z-]{1,20})?\?([bBqQ])\?([^? ]{0,2000})\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?)")
_GUESSED_BOUNDARY = re.compile(rb"^--([!-~]{1,70})[ \t]*\r?\n(?=[A-Za-z-]{1,40}:)", re.MULTILINE)
_HEAD_END = re.compile(rb"\r?\n[ \t]*\r?\n|\r\r")
_LINE = re.compile(r"\r\n|\n|\r")
_SAFE_CODECS = re.compile(
    r"utf-8|utf_8|utf-16|utf_16|ascii|iso8859-\d+|latin-?1|cp\d+|koi8-\w|iso2022_(jp|kr)\w*|shift_jis\w*|euc_\w+|gb\w+|hz"
    r"|big5\w*|johab|mac-\w+"
)
"""Others are slow on purpose-made input, or no charsets at all."""

RETURNED = ("message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers", "message/partial")
"""Parts that hold the message that a report is about, or its headers."""


@dataclass(slots=True)
class Part:
    """A mail, or a part of one."""

    #: Name in lower case and value, unfolded, in order.
    headers: list[tuple[str, str]] = field(default_factory=list)
    #: In lower case, such as `text/plain`.
    type: str = "text/plain"
    parameters: dict[str, str] = field(default_factory=dict)
    #: As it is on the wire; empty if there are parts.
    body: bytes = b""
    parts: list["Part"] = field(default_factory=list)

    def header(self, name: str) -> str:
        """The first header of this name, decoded (RFC 2047); empty if there is none."""
        return decoded_words(next((value for found, value in self.headers if found == name), ""))

    def walk(self) -> Iterator["Part"]:
        """Itself and all parts below it, in order."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def octets(self) -> bytes:
        """The body without its transfer encoding."""
        return _unpacked(self.body, self.header("content-transfer-encoding"))

    def text(self) -> str:
        """The body as text; HTML without its tags."""
        text = decoded(self.octets(), self.parameters.get("charset", ""))[:MOST_CHARACTERS]
        return _without_tags(text) if self.type == "text/html" else text


def parse(octets: bytes) -> Part:
    """Takes a mail apart."""
    return _parse(octets[:MOST_BYTES], 0, [MOST_PARTS])


def decoded_words(value: str) -> str:
    """A header's value with its encoded words decoded (RFC 2047)."""
    if "=?" not in value:
        return value

    def word(found: re.Match[str]) -> str:
        text = found[3].encode("ascii", "replace")
        octets = _base64(text) if found[2] in "bB" else binascii.a2b_qp(text, header=True)
        return decoded(octets, found[1])

    return _WORD.sub(word, _BETWEEN_WORDS.sub(r"\1", value))


def decoded(octets: bytes, charset: str) -> str:
    """Text, in UTF-8 or Latin-1 if the charset is unknown or wrong."""
    name = charset.strip().strip("\"'").lower()
    for wanted in {"gb2312": "gb18030", "gbk": "gb18030"}.get(name, name), "utf-8":
        try:
            known = codecs.lookup(wanted).name
            if _SAFE_CODECS.fullmatch(known):
                return octets.decode(known)
        except (LookupError, ValueError):
            continue
    return octets.decode("latin-1")


def fields(text: str) -> list[tuple[str, str]]:
    """Fields with a name in lower case and a value, unfolded. Lines that are none are left out."""
    found: list[list[str]] = []
    for line in _LINE.split(text)[: MOST_HEADERS * 10]:
        if line[:1] in (" ", "\t") and found:
            found[-1].append(line.strip())
        elif (match := _FIELD.match(line)) is not None:
            if len(found) >= MOST_HEADERS:
                break
            found.append([match[1].lower(), match[2].strip()])
    return [(name, " ".join(lines)[:LONGEST_HEADER]) for name, *lines in found]


def _parse(octets: bytes, depth: int, parts_left: list[int]) -> Part:
    parts_left[0] -= 1
    head, body = head_and_body(octets)
    part = Part(fields(decoded(head, "utf-8")), body=body)
    content_type = next((value for name, value in part.headers if name == "content-type"), "")
    part.type = content_type.partition(";")[0].strip().lower() or "text/plain"
    for name, value in _PARAMETER.findall(content_type):
        part.parameters.setdefault(name.lower().rstrip("*"), value.strip('"'))
    if depth >= MOST_DEPTH:
        return part
    if part.type in RETURNED:
        part.parts = [_parse(part.octets().lstrip(b"\r\n"), depth + 1, parts_left)] if parts_left[0] > 0 else []
    elif part.type.startswith("multipart/"):
        for piece in _pieces(body, part.parameters.get("boundary", "")):
            if parts_left[0] <= 0:
                break
            part.parts.append(_parse(piece, depth + 1, parts_left))
    if part.parts:
        part.body = b""
    return part


def head_and_body(octets: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the first empty line."""
    if octets[:2] == b"\r\n" or octets[:1] == b"\n":
        return b"", octets.lstrip(b"\r\n")
    end = _HEAD_END.search(octets)
    return (octets, b"") if end is None else (octets[: end.start()], octets[end.end() :])


def _pieces(body: bytes, boundary: str) -> list[bytes]:
    """What stands between the boundaries; the last piece may lack its end."""
    mark = boundary.encode("latin-1", "replace")
    if not mark or b"--" + mark not in body:
        guessed = _GUESSED_BOUNDARY.search(body)
        if guessed is None:
            return []
        mark = guessed[1]
    delimiter = re.compile(rb"(?:^|\r?\n|\r)--" + re.escape(mark) + rb"(--)?[ \t]*(?:\r?\n|\r|$)")
    pieces: list[bytes] = []
    start = -1
    for found in delimiter.finditer(body):
        if start >= 0:
            pieces.append(body[start : found.start()])
        start = -1 if found[1] else found.end()
        if len(pieces) > MOST_PARTS:
            return pieces
    if start >= 0:
        pieces.append(body[start:])
    return pieces


def _unpacked(octets: bytes, encoding: str) -> bytes:
    name = encoding.strip().strip('"').lower()
    if name == "base64":
        return _base64(octets)
    if name == "quoted-printable":
        return binascii.a2b_qp(octets)
    return octets


def _base64(octets: bytes) -> bytes:
    """As much of it as is base64."""
    only = re.sub(rb"[^A-Za-z0-9+/]", b"", octets)
    only = only[:-1] if len(only) % 4 == 1 else only
    return binascii.a2b_base64(only + b"=" * (-len(only) % 4))


_TAG = re.compile(r"<[^<>]{0,2000}>")
_BREAK = re.compile(r"<(?:br|/p|/div|/tr|/h\d|/li)\b[^<>]{0,200}>", re.IGNORECASE)
_LINK = re.compile(r'href="([^"]{1,2000})"', re.IGNORECASE)
_SILENT = (("<!--", "-->"), ("<style", "</style>"), ("<script", "</script>"))
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": " ", "&amp;": "&"}


def _without_tags(text: str) -> str:
    for begin, end in _SILENT:
        text = _without(text, begin, end)
    links = " ".join(found[1] for found, _ in zip(_LINK.finditer(text), range(50), strict=False))
    text = _TAG.sub(" ", _BREAK.sub("\n", text))
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return f"{text}\n{links}" if links else text


def _without(text: str, begin: str, end: str) -> str:
    """The text without what stands between `begin` and `end`; one that is never ended goes on to the end."""
    if begin not in text.lower():
        return text
    lowered, kept, at = text.lower(), [], 0
    while (start := lowered.find(begin, at)) >= 0:
        kept.append(text[at:start])
        stop = lowered.find(end, start)
        if stop < 0:
            return "".join(kept)
        at = stop + len(end)
    return "".join([*kept, text[at:]])
