"""A server's bytes become replies (RFC 5321, 4.2): a code, and a text that may span lines."""

from shared.relays.replies import Reply

MAX_LINE_BYTES = 4096  # RFC 5321 allows 512; some servers send more
MAX_REPLY_BYTES = 65536
MOST_KNOWN = 32  # single-line replies that a reader recognises without parsing them again


class BadReplyError(ValueError):
    """The server's bytes are not SMTP: no code, mixed codes, an endless line or reply. The connection is unusable."""


class ReplyReader:
    """Cuts a stream of bytes, split anywhere, into replies."""

    __slots__ = ("_code", "_known", "_lines", "_size", "_tail")

    def __init__(self) -> None:
        self._known: dict[bytes, Reply] = {}  # a server says the same to every MAIL, RCPT and DATA
        self._tail = b""
        self._code = 0
        self._lines: list[bytes] = []
        self._size = 0

    @property
    def mid_reply(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._tail or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that `data` completes, in order. Raises `BadReplyError`; then nothing more can be read."""
        if self._tail:
            data = self._tail + data
        lines = data.split(b"\n")
        self._tail = lines.pop()
        if len(self._tail) > MAX_LINE_BYTES:
            raise BadReplyError("a line without end")
        replies = []
        for line in lines:
            if not self._lines and (known := self._known.get(line)) is not None:
                replies.append(known)
                continue
            digits = line[:3]
            mark = line[3:4]
            if not (digits.isdigit() and len(digits) == 3 and b"200" <= digits < b"600"):
                raise BadReplyError(f"no reply code in {_shown(line)}")
            code = int(digits)
            if self._lines and code != self._code:
                raise BadReplyError(f"codes {self._code} and {code} in one reply")
            if mark == b"-":
                self._size += len(line)
                if self._size > MAX_REPLY_BYTES:
                    raise BadReplyError("a reply without end")
                self._code = code
                self._lines.append(line[4:].rstrip(b"\r"))
            elif mark in (b" ", b"\r", b""):
                reply = Reply(code, line[4:].rstrip(b"\r"))
                if self._lines:
                    reply = Reply(code, b"\n".join([*self._lines, reply.raw]))
                    self._lines.clear()
                    self._size = 0
                elif len(self._known) < MOST_KNOWN:
                    self._known[line] = reply
                replies.append(reply)
            else:
                raise BadReplyError(f"no reply code in {_shown(line)}")
        return replies


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))
