"""Transfer encodings whose cost per email grows with the merge values, not with the size of the message.

Fixed text is encoded once per campaign. For each email the encoder walks the pieces of a rendered template, reuses the
encoded fixed ones and encodes the rest. Decoders ignore where encoded lines break (RFC 2045, 6.7 and 6.8), so a fixed
piece may begin on a new line; no line exceeds 76 characters.

No encoded line begins with a dot, so these parts need no dot-stuffing (RFC 5321, 4.5.2), and none contains `=_`, so no
boundary collides with them.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from sys import getsizeof
from types import MappingProxyType
from typing import NamedTuple, Protocol

_LINE_OCTETS = 57  # 76 characters of base64
LONG_OCTETS = 16 * 1024
"""A piece from this length on is not copied into a message."""

_SHORT_OCTETS = 240  # fixed text below this is cheaper to encode again than to keep at three alignments
_QP_LINE = 73  # leaves room for a soft break and for an encoded first character
_NOT_PLAIN = re.compile(rb"[^ -<>-~]")
_QP_VALUE = re.compile(r"[!-\-/-<>-~](?:[ -<>-~]*[!-<>-~])?")  # begins with no dot, ends in no space
_SPACES = re.compile(rb"[ \t]+")
_SPACE_ENDS_LINE = re.compile(rb" \r\n")
_LINE_START = re.compile(rb"^(?:\.|F(?=rom ))")  # a mailbox file would take "From " for the next message


class Encoder(Protocol):
    """Makes the encoded body of one part."""

    name: bytes  # of the encoding, as in Content-Transfer-Encoding
    end: bytes  # comes between the part and the next boundary
    spaced: Mapping[bytes, bytes]  # encoded pieces that contain runs of spaces, with their canonical forms for DKIM
    kept_bytes: int  # about the memory for fixed text
    varied_bytes: int  # about the length of a part's encoded text, long fixed pieces excepted

    def encode(self, pieces: Iterable[str], out: list[bytes]) -> None:
        """Appends the encoded pieces, whose line ends are LF. Raises UnicodeEncodeError for lone surrogates."""
        ...


def encoder_for(literals: Iterable[str]) -> Encoder:
    """The encoding that is shorter for this fixed text: quoted-printable for Latin, base64 for Cyrillic."""
    texts = list(literals)
    octets = "".join(texts).encode()
    quoted = len(octets) + 2 * len(_NOT_PLAIN.findall(octets.replace(b"\n", b"")))
    return QuotedPrintable(texts) if quoted <= len(octets) * 4 // 3 else Base64(texts)


class _Aligned(NamedTuple):
    """Fixed text after one number of left-over octets: octets that complete the group, full lines, what is left."""

    head: bytes
    lines: bytes
    tail: bytes


class Base64:
    """RFC 2045, 6.8. Fixed text is kept encoded at the three alignments it can have."""

    name = b"base64"
    end = b""
    spaced: Mapping[bytes, bytes] = MappingProxyType({})

    def __init__(self, literals: Iterable[str]) -> None:
        self._aligned: dict[str, tuple[_Aligned, _Aligned, _Aligned]] = {}
        for literal in literals:
            octets = _canonical(literal)
            if len(octets) >= _SHORT_OCTETS:
                self._aligned[literal] = (_aligned(octets, 0), _aligned(octets, 2), _aligned(octets, 1))
        self.kept_bytes = sum(getsizeof(text) + 3 * len(forms[0].lines) for text, forms in self._aligned.items())
        self.varied_bytes = sum(min(LONG_OCTETS, len(forms[0].lines)) for forms in self._aligned.values())

    def encode(self, pieces: Iterable[str], out: list[bytes]) -> None:
        known = self._aligned.get
        pending = b""
        for piece in pieces:
            aligned = known(piece)
            if aligned is None:
                pending += _canonical(piece)
                continue
            head, lines, tail = aligned[len(pending) % 3]
            pending += head
            if pending:
                _encode_lines(pending, out)
            out.append(lines)
            pending = tail
        if pending:
            _encode_lines(pending, out)


class _Quoted(NamedTuple):
    """An encoded piece, and the (greatest possible) lengths of its first and last line; the same where `one_line`."""

    octets: bytes
    first: int
    last: int
    one_line: bool


class QuotedPrintable:
    """RFC 2045, 6.7. Line ends are literal; a space before a line end and what could be taken for more is encoded."""

    name = b"quoted-printable"
    end = b"\r\n"

    def __init__(self, literals: Iterable[str]) -> None:
        self._quoted = {literal: _quote(literal) for literal in literals}
        self.spaced: Mapping[bytes, bytes] = spaced(quoted.octets for quoted in self._quoted.values())
        self.kept_bytes = sum(getsizeof(text) + len(quoted.octets) for text, quoted in self._quoted.items())
        self.kept_bytes += sum(map(len, self.spaced.values()))
        self.varied_bytes = sum(min(LONG_OCTETS, len(quoted.octets)) for quoted in self._quoted.values())

    def encode(self, pieces: Iterable[str], out: list[bytes]) -> None:
        known = self._quoted.get
        column = 0
        for piece in pieces:
            if not piece:
                continue
            quoted = known(piece)
            if quoted is None:
                quoted = _quote_value(piece)
            octets, first, last, one_line = quoted
            if column and column + first > 75:
                out.append(b"=\r\n")
                column = 0
            out.append(octets)
            column = column + last if one_line else last


def spaced(pieces: Iterable[bytes]) -> dict[bytes, bytes]:
    """Those whose canonical form (spaces in a row are one, none ends a line; RFC 6376, 3.4.4) is another."""
    canonical = {piece: _SPACE_ENDS_LINE.sub(b"\r\n", _SPACES.sub(b" ", piece)) for piece in pieces}
    return {piece: relaxed for piece, relaxed in canonical.items() if relaxed != piece}


def _canonical(text: str) -> bytes:
    """UTF-8 with CRLF line ends (RFC 2045, 6.8 and 2046, 4.1.1)."""
    return text.replace("\n", "\r\n").encode()


def _aligned(octets: bytes, head: int) -> _Aligned:
    whole = head + (len(octets) - head) // 3 * 3
    lines: list[bytes] = []
    _encode_lines(octets[head:whole], lines)
    return _Aligned(octets[:head], b"".join(lines), octets[whole:])


def _encode_lines(octets: bytes, out: list[bytes]) -> None:
    for start in range(0, len(octets), _LINE_OCTETS):
        out.append(b2a_base64(octets[start : start + _LINE_OCTETS], newline=False))
        out.append(b"\r\n")


def _quote_value(text: str) -> _Quoted:
    """As `_quote`, but fast for names, cities and links: where a character needs encoding, all are encoded.

    A value holds no two spaces in a row, so that only fixed text does."""
    if "\n" in text:
        return _quote(text, single_spaced=True)
    if "  " not in text and _QP_VALUE.fullmatch(text):
        octets, step = text.encode(), _QP_LINE
    else:
        octets, step = b"=" + text.encode().hex("=").upper().encode(), _QP_LINE // 3 * 3
    if len(octets) <= _QP_LINE:
        return _Quoted(octets, len(octets), len(octets), True)
    lines = [octets[start : start + step] for start in range(0, len(octets), step)]
    wrapped = b"=\r\n".join(lines).replace(b"\n.", b"\n=2E")
    return _Quoted(wrapped, step + 1, len(lines[-1]) + 2, False)


def _quote(text: str, *, single_spaced: bool = False) -> _Quoted:
    lines = [wrapped for line in _canonical(text).split(b"\r\n") for wrapped in _quote_line(line, single_spaced)]
    octets = b"\r\n".join(lines)
    return _Quoted(octets, len(lines[0]), len(lines[-1]), len(lines) == 1)


def _quote_line(line: bytes, single_spaced: bool) -> list[bytes]:
    quoted = _NOT_PLAIN.sub(lambda found: b"=%02X" % found.group()[0], line)
    if quoted.endswith(b" "):
        quoted = quoted[:-1] + b"=20"
    if single_spaced:
        quoted = quoted.replace(b"  ", b" =20")
    wrapped = []
    while len(quoted) > _QP_LINE:
        cut = quoted.rfind(b"=", _QP_LINE - 2, _QP_LINE)
        cut = cut if cut > 0 else _QP_LINE
        wrapped.append(quoted[:cut] + b"=")
        quoted = quoted[cut:]
    wrapped.append(quoted)
    return [_LINE_START.sub(lambda found: b"=%02X" % found.group()[0], part) for part in wrapped]
