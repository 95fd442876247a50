"""Text in other encodings than UTF-8: read where the client names it or a byte order mark does, else recognised for the
error message."""

import codecs
import re
from collections.abc import AsyncIterator

from services.api.formats.options import OptionError
from services.api.formats.parser import MalformedError

SAMPLE_BYTES = 16_384

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The encodings that spreadsheets and older exports write, by the names their users know.
_USUAL = {
    "cp1251": "windows-1251",
    "cp1252": "windows-1252",
    "cp1250": "windows-1250",
    "cp1253": "windows-1253",
    "cp1254": "windows-1254",
    "cp1255": "windows-1255",
    "cp1256": "windows-1256",
    "cp1257": "windows-1257",
    "cp866": "cp866",
    "koi8_r": "koi8-r",
    "mac_cyrillic": "mac-cyrillic",
    "mac_roman": "mac-roman",
    "big5": "big5",
    "gb18030": "gb18030",
    "gbk": "gbk",
    "shift_jis": "shift_jis",
    "cp932": "shift_jis",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "cp949": "euc-kr",
}


# Names that programs use and Python does not know; and ISO 8859-1, which means windows-1252 wherever it is declared
# (WHATWG Encoding, 4.2): its own signs from 0x80 to 0x9f are invisible controls.
_ALIASES = {
    "windows-31j": "cp932",
    "x-sjis": "cp932",
    "x-mac-cyrillic": "mac_cyrillic",
    "x-mac-roman": "mac_roman",
    "iso8859-1": "cp1252",
}


def known_charset(name: str) -> str:
    """Python's name of an encoding for text. Raises OptionError."""
    name = name.strip()
    try:
        codec = codecs.lookup(_ALIASES.get(name.lower(), name))
    except (LookupError, UnicodeError, ValueError):
        raise OptionError(
            "charset", f"{name[:40]!r} is not a known encoding; try utf-8, windows-1251 or utf-16"
        ) from None
    # Codecs such as base64 and zlib are not text, and idna or punycode are no file's encoding.
    if not getattr(codec, "_is_text_encoding", True) or codec.name in _NO_FILE:
        raise OptionError("charset", f"{name[:40]!r} is not an encoding of text files")
    return _ALIASES.get(codec.name, codec.name)


_NO_FILE = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"})


async def as_utf8(blocks: AsyncIterator[bytes], charset: str | None) -> AsyncIterator[bytes]:
    """The same text in UTF-8. `charset`: Python's name; None: UTF-8, or what a byte order mark says."""
    head = b""
    async for block in blocks:
        head += block
        if len(head) >= 4:
            break
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        charset = marked  # it is surer than what a client says (WHATWG Encoding, 6)
    elif charset is None and (wide := _wide(head)):
        reason = f"looks like {wide.upper()} without a byte order mark; repeat it with ?charset={wide}"
        raise MalformedError(1, reason, whole=True)
    elif charset in ("utf-16", "utf-32"):
        charset = _wide(head) or f"{charset}-le"  # as Windows writes it
    if charset is None or charset in ("utf-8", "utf_8_sig", "ascii"):
        async for block in _joined(head, blocks):
            yield block
        return
    decoder = codecs.getincrementaldecoder(charset)()
    line = 1
    async for block in _joined(head, blocks):
        text = _decoded(decoder, block, charset, line)
        line += text.count("\n")
        yield text.encode()
    yield _decoded(decoder, b"", charset, line, last=True).encode()


async def _joined(head: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for block in blocks:
        yield block


def _decoded(decoder: codecs.IncrementalDecoder, block: bytes, charset: str, line: int, *, last: bool = False) -> str:
    try:
        return decoder.decode(block, last)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        byte = error.object[error.start] if error.start < len(error.object) else 0
        raise MalformedError(line, f"is not {charset} (byte 0x{byte:02x}); is ?charset= right?") from None


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where its zero bytes stand: line ends, delimiters and Latin letters have them
    on one side. No text in UTF-8 has any at its beginning."""
    head = head[: min(len(head), SAMPLE_BYTES) // 4 * 4]
    zeros = [head[offset::4].count(0) for offset in range(4)]
    units = len(head) // 4
    if not any(zeros):
        return None
    if zeros[2] == zeros[3] == units:
        return "utf-32-le"
    if zeros[0] == zeros[1] == units:
        return "utf-32-be"
    low, high = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if max(low, high) < max(2, units // 4) or min(low, high) * 4 > max(low, high):
        return None
    return "utf-16-le" if high > low else "utf-16-be"


def not_utf8(line: int, error: UnicodeDecodeError, sample: bytes = b"") -> MalformedError:
    """The error for a line that is not UTF-8; names what the text looks like. `sample`: the text from there on."""
    from charset_normalizer import from_bytes  # megabytes that few imports need

    byte = error.object[error.start]
    sample = (sample or error.object)[:SAMPLE_BYTES]
    best = from_bytes(sample, cp_isolation=list(_USUAL), enable_fallback=False).best()
    offer = _offer(sample, best.encoding) if best and best.encoding in _USUAL else ""
    return MalformedError(line, f"is not UTF-8 (byte 0x{byte:02x}); {offer}save the file as UTF-8")


def _offer(sample: bytes, guess: str) -> str:
    """What to repeat the import with. Western and central European encodings cannot be told apart by counting, so both
    are shown with a word on which they differ."""
    looks = _USUAL[guess]
    if guess in _LATIN:
        for word in _WORD.findall(sample):
            western, central = (word.decode(name, "replace") for name in _LATIN)
            if western != central and "\ufffd" not in western + central:
                return (
                    f"it looks like windows-1252 ({western!r}) or windows-1250 ({central!r}): repeat it with the right "
                    "one as ?charset=, or "
                )
            if "\ufffd" in western:
                looks = "windows-1250"
    return f"it looks like {looks}: repeat it with ?charset={looks}, or "


_LATIN = ("cp1252", "cp1250")
_WORD = re.compile(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*")
