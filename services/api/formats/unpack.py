"""Packed uploads: gzip (RFC 1952), and zip (PKWARE APPNOTE, section 4.3) with one file in it, unpacked as they arrive.

Nothing is spooled: a piece is unpacked, parsed and stored before the next one is read."""

import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from services.api.formats.parser import MalformedError

PIECE_BYTES = 256 * 1024
MAX_RATIO = 200
"""A list of people packs to a tenth or so; what unpacks to more than this many times its size is a bomb."""
RATIO_COUNTS_FROM_BYTES = 16 * 1024 * 1024

MAX_NAME_BYTES = 255

_GZIP_NAME = 0x8
_GZIP = b"\x1f\x8b"
_ZIP_ENTRY = b"PK\x03\x04"
_ZIP_DIRECTORY = b"PK\x01\x02"
_ZIP_DESCRIPTOR = b"PK\x07\x08"
_ENTRY = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZE_FOLLOWS = 0x1, 0x8

# What people upload by mistake, by how it begins.
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0", "an Excel 97 workbook (.xls); save it as CSV UTF-8"),
    (b"%PDF", "a PDF"),
    (b"BZh", "packed with bzip2; pack it with gzip or zip, or send it as it is"),
    (b"\xfd7zX", "packed with xz; pack it with gzip or zip, or send it as it is"),
    (b"7z\xbc\xaf", "a 7-Zip archive; pack it with gzip or zip, or send it as it is"),
    (b"Rar!", "a RAR archive; pack it with gzip or zip, or send it as it is"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; pack it with gzip or zip, or send it as it is"),
    (b"{\\rt", "an RTF document; save it as plain text"),
)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload with its packing taken off. `name`: the packed file's name, empty where none is given."""

    name: str
    blocks: AsyncIterator[bytes]


async def unpack(blocks: AsyncIterator[bytes]) -> Upload:
    """Looks at the first bytes and takes gzip or zip off. Raises MalformedError, as reading the blocks does."""
    source = _Source(blocks)
    head = await source.peek(4)  # not more: a client may wait after a short first line
    if head.startswith(_GZIP):
        return Upload(await _gzip_name(source), _packed_once(_gunzip(source)))
    if head.startswith(_ZIP_ENTRY):
        entry = await _next_file(source)
        if entry is None:
            raise _broken("is a zip archive without a file in it")
        return Upload(entry.name, _packed_once(_unzip(source, entry)))
    if head.startswith(b"PK\x05\x06"):
        raise _broken("is an empty zip archive")
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise _broken(f"is {what}")
    return Upload("", source.rest())


async def _packed_once(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same blocks, unless they begin as an archive or a document does."""
    head = b""
    async for block in blocks:
        head += block
        if len(head) >= 4:
            break
    if head.startswith((_GZIP, _ZIP_ENTRY)):
        raise _broken("is packed twice; pack the list itself, once")
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise _broken(f"holds {what}")
    yield head
    async for block in blocks:
        yield block


async def _gzip_name(source: "_Source") -> str:
    """The name in a gzip header (RFC 1952, 2.3); empty where there is none, or something before it."""
    head = await source.peek(10)
    if len(head) < 10 or head[3] & ~0x3 != _GZIP_NAME:
        return ""
    name, end, _ = (await source.peek(10 + MAX_NAME_BYTES))[10:].partition(b"\0")
    return name.decode("utf-8", "replace") if end else ""


class _Source:
    """Blocks of bytes, read as much at a time as a format needs. `read`: how many bytes have been taken out."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self.read = 0

    async def peek(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        while len(self._buffer) < size:
            block = await anext(self._blocks, b"")
            if not block:
                break
            self._buffer += block
        return self._buffer[:size]

    async def take(self, size: int) -> bytes:
        taken = await self.peek(size)
        if len(taken) < size:
            raise _broken("ends in the middle of a zip archive; is the upload complete?")
        self._buffer = self._buffer[size:]
        self.read += size
        return taken

    async def some(self) -> bytes:
        """Whatever comes next, at most PIECE_BYTES; empty at the end."""
        taken = await self.peek(1) and self._buffer[:PIECE_BYTES]
        self._buffer = self._buffer[len(taken) :]
        self.read += len(taken)
        return taken

    def put_back(self, unused: bytes) -> None:
        self._buffer = unused + self._buffer
        self.read -= len(unused)

    async def rest(self) -> AsyncIterator[bytes]:
        while block := await self.some():
            yield block


class _Inflate:
    """One deflated stream (RFC 1951), bounded in what it may grow to."""

    def __init__(self, source: _Source, window_bits: int) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(window_bits)
        self._began_at = source.read
        self._unpacked = 0
        self.crc = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        packed = b""
        while not self._inflate.eof:
            packed = packed or await self._source.some()
            if not packed:
                raise _broken("ends in the middle of the packed data; is the upload complete?")
            try:
                piece = self._inflate.decompress(packed, PIECE_BYTES)
            except zlib.error as error:
                raise _broken(f"cannot be unpacked: {error}") from None
            packed = self._inflate.unconsumed_tail
            self._unpacked += len(piece)
            self.crc = zlib.crc32(piece, self.crc)
            if self._unpacked > max(RATIO_COUNTS_FROM_BYTES, MAX_RATIO * (self._source.read - self._began_at)):
                raise _broken(f"unpacks to more than {MAX_RATIO} times its size; send it unpacked")
            if piece:
                yield piece
        self._source.put_back(self._inflate.unused_data)


async def _gunzip(source: _Source) -> AsyncIterator[bytes]:
    """One gzip member or several in a row; zero bytes after the last are padding."""
    while True:
        async for piece in _Inflate(source, zlib.MAX_WBITS | 16).pieces():
            yield piece
        while await source.peek(1) == b"\0":
            await source.take(1)
        if not await source.peek(1):
            return
        if not (await source.peek(2)).startswith(_GZIP):
            raise _broken("has something else after the gzip data")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file of a zip archive, up to its first byte of data. `size` and `crc` are 0 where they follow the data."""

    name: str
    method: int
    size_follows: bool
    packed_size: int
    crc: int


async def _next_file(source: _Source) -> _Entry | None:
    """The next entry that is a file of the user's; folders and what macOS and Windows add are passed over."""
    while (await source.peek(4)) == _ZIP_ENTRY:
        _, _, flags, method, _, _, crc, packed, _, name_length, extra_length = _ENTRY.unpack(
            await source.take(_ENTRY.size)
        )
        name = (await source.take(name_length)).decode("utf-8", "replace")
        await source.take(extra_length)
        if flags & _ENCRYPTED:
            raise _broken("is an encrypted zip archive; pack it without a password")
        entry = _Entry(name, method, bool(flags & _SIZE_FOLLOWS), packed, crc)
        if name in ("[Content_Types].xml", "mimetype") or name.startswith(("xl/", "_rels/")):
            raise _broken("is a workbook or document (.xlsx, .ods, .docx); save it as CSV UTF-8")
        if not name.endswith("/") and not _is_litter(PurePosixPath(name.replace("\\", "/"))):
            return entry
        async for _ in _data(source, entry):
            pass
    return None


def _is_litter(path: PurePosixPath) -> bool:
    return (
        path.parts[:1] == ("__MACOSX",)
        or path.name.startswith("._")
        or path.name.lower() in (".ds_store", "thumbs.db", "desktop.ini")
    )


async def _unzip(source: _Source, entry: _Entry) -> AsyncIterator[bytes]:
    async for piece in _data(source, entry):
        yield piece
    another = await _next_file(source)
    if another is not None:
        raise _broken(f"is a zip archive of several files ({entry.name!r}, {another.name!r}); pack one")
    if (await source.peek(4)) != _ZIP_DIRECTORY:
        raise _broken("is a damaged zip archive: its directory is missing")
    while await source.some():
        pass


async def _data(source: _Source, entry: _Entry) -> AsyncIterator[bytes]:
    if entry.method == _DEFLATED:
        inflate = _Inflate(source, -zlib.MAX_WBITS)
        async for piece in inflate.pieces():
            yield piece
        crc = inflate.crc
    elif entry.method == _STORED and not entry.size_follows:
        crc, left = 0, entry.packed_size
        while left:
            piece = await source.take(min(left, PIECE_BYTES))
            crc, left = zlib.crc32(piece, crc), left - len(piece)
            yield piece
    else:
        raise _broken(f"is a zip archive packed by method {entry.method}; pack it with the usual one (deflate)")
    if entry.size_follows:
        expected = await _descriptor(source)
    else:
        expected = entry.crc
    if crc != expected:
        raise _broken("is a damaged zip archive: the checksum does not match")


async def _descriptor(source: _Source) -> int:
    """The checksum behind the data (APPNOTE 4.3.9): with or without a signature, sizes of 4 or of 8 bytes."""
    ahead = await source.peek(28)
    start = 4 if ahead.startswith(_ZIP_DESCRIPTOR) else 0
    for length in (start + 12, start + 20):
        if ahead[length : length + 4] in (_ZIP_ENTRY, _ZIP_DIRECTORY):
            (crc,) = struct.unpack("<I", (await source.take(length))[start : start + 4])
            return int(crc)
    raise _broken("is a damaged zip archive: what follows the packed file is missing")


def _broken(reason: str) -> MalformedError:
    return MalformedError(1, reason, whole=True)
