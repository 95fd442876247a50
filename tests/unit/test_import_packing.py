"""Packed uploads are unpacked as they arrive, within bounds; options of a query are understood or refused in words."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.formats.charsets import as_utf8, known_charset
from services.api.formats.options import EMAIL, OptionError, as_boolean, read_options
from services.api.formats.parser import MalformedError
from services.api.formats.unpack import PIECE_BYTES, RATIO_COUNTS_FROM_BYTES, unpack

LIST = b"email,name\n" + b"".join(b"r%d@example.test,Ann\n" % number for number in range(200))


async def blocks_of(document: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(document), size):
        yield document[start : start + size]


async def unpacked(document: bytes, size: int = 100) -> bytes:
    upload = await unpack(blocks_of(document, size))
    return b"".join([block async for block in upload.blocks])


def zipped(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize("packed", [LIST, gzip.compress(LIST), zipped(("people.csv", LIST))], ids=["", "gzip", "zip"])
async def test_the_same_list_comes_out_of_every_packing(packed: bytes, size: int) -> None:
    assert await unpacked(packed, size) == LIST


@pytest.mark.parametrize("pack", [gzip.compress, lambda zeros: zipped(("people.csv", zeros))], ids=["gzip", "zip"])
async def test_a_bomb_is_refused_before_it_fills_the_memory(pack: object) -> None:
    bomb = pack(b"\n" * 4 * RATIO_COUNTS_FROM_BYTES)  # type: ignore[operator]
    upload = await unpack(blocks_of(bomb, 64 * 1024))
    seen: list[int] = []

    async def read_on() -> None:
        async for block in upload.blocks:
            seen.append(len(block))  # noqa: PERF401 - what came before the error counts

    with pytest.raises(MalformedError, match="times its size"):
        await read_on()
    assert max(seen) <= PIECE_BYTES
    assert sum(seen) <= RATIO_COUNTS_FROM_BYTES


async def test_a_large_ordinary_list_is_no_bomb() -> None:
    lines = b"".join(b"person-%07d@example.test,Ann Other,Kent\n" % number for number in range(600_000))
    assert len(lines) > RATIO_COUNTS_FROM_BYTES
    assert await unpacked(gzip.compress(lines), PIECE_BYTES) == lines


async def test_a_file_whose_data_was_damaged_is_refused() -> None:
    archive = bytearray(zipped(("people.csv", LIST)))
    archive[14:18] = struct.pack("<I", zlib.crc32(b"other"))
    with pytest.raises(MalformedError, match="checksum"):
        await unpacked(bytes(archive))


async def test_an_encrypted_archive_is_named() -> None:
    archive = bytearray(zipped(("people.csv", LIST)))
    archive[6] |= 1
    with pytest.raises(MalformedError, match="encrypted"):
        await unpacked(bytes(archive))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b"PK\x03\x04", b"PK\x05\x06"]))
async def test_any_bytes_come_out_or_are_refused_in_words(document: bytes, head: bytes) -> None:
    with suppress(MalformedError):
        assert isinstance(await unpacked(head + document), bytes)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200), st.integers(1, 9))
async def test_text_in_utf_16_comes_out_in_utf_8(text: str, size: int) -> None:
    document = b"\xff\xfe" + text.encode("utf-16-le")
    blocks = as_utf8(blocks_of(document, size), None)
    assert b"".join([block async for block in blocks]).decode() == text


@pytest.mark.parametrize("name", ["rot13", "base64", "zlib", "idna", "no such", "", "punycode", "\0"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        known_charset(name)
    assert caught.value.option == "charset"


def test_options_name_columns_fields_and_types() -> None:
    options = read_options(" E-mail ", ["Имя:name,Город:city", '"name, first":first'], ["vip:boolean"])
    assert options.columns == {"Имя": "name", "Город": "city", "name, first": "first", "E-mail": EMAIL}
    assert options.booleans == {"vip"}
    assert options.names_address


@pytest.mark.parametrize(
    ("email_column", "columns", "types", "option"),
    [
        ("", (), (), "email_column"),
        ("Work", ["Mail:email"], (), "email_column"),
        (None, ["name"], (), "columns"),
        (None, [":name"], (), "columns"),
        (None, ["Name:"], (), "columns"),
        (None, ["A:name,B:name"], (), "columns"),
        (None, ["A:name,A:city"], (), "columns"),
        (None, ["A:" + "x" * 20_000], (), "columns"),
        (None, (), ["vip"], "types"),
        (None, (), ["vip:date"], "types"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(
    email_column: str | None, columns: list[str], types: list[str], option: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read_options(email_column, columns, types)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("word", "meant"), [("Yes", True), (" 0 ", False), ("Да", True), ("", None), (True, True), (0, False)]
)
def test_words_of_a_yes_or_no_column(word: object, meant: bool | None) -> None:
    assert as_boolean(word) is meant


@pytest.mark.parametrize("word", ["maybe", "2", 2, "yes!"])
def test_other_words_are_neither_yes_nor_no(word: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the caller names the cell
        as_boolean(word)
