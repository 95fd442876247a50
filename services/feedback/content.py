"""Reads the content of a mail from a connection (RFC 5321, sections 4.1.1.4 and 4.5.2), within bounds.

aiosmtpd keeps each line as an object, refuses a mail with one long line, and keeps a line without an end whole: reports
return mails with long lines, and strangers send what they like.
"""

from asyncio import LimitOverrunError, StreamReader

from shared.feedback.mime import MOST_BYTES

ENDLESS = 10
"""A client that sends this many times the bytes that are allowed does not want to end."""


class EndlessError(ConnectionError):
    """A client sends without end."""


async def read_content(reader: StreamReader, most_bytes: int) -> bytes | None:
    """The content, without stuffed dots; of a long one only what is looked at. None: it has more than `most_bytes`.

    Raises EndlessError if far more come, and IncompleteReadError if the connection ends first."""
    kept = bytearray()
    size, starts_line = 0, True
    while True:
        try:
            piece = await reader.readuntil(b"\r\n")
            ends_line = True
        except LimitOverrunError as error:
            piece = await reader.readexactly(error.consumed)
            ends_line = False
        if starts_line and piece[:1] == b".":
            if piece == b".\r\n":
                return bytes(kept) if size <= most_bytes else None
            piece = piece[1:]
        starts_line = ends_line
        size += len(piece)
        if size > most_bytes * ENDLESS:
            raise EndlessError
        if len(kept) < MOST_BYTES:
            kept += piece[: MOST_BYTES - len(kept)]
