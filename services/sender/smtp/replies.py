"""A server's bytes become replies (RFC 5321, 4.2): a code, and a text that may span lines."""

import re
from typing import NamedTuple

MAX_LINE_BYTES = 4096  # RFC 5321 allows 512; some servers are wordier
MAX_REPLY_BYTES = 65536
LOGGED_TEXT_CHARACTERS = 500
MOST_KNOWN = 32  # replies that a reader recognises without looking into them

_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")
_ADDRESS = re.compile(r"""(?:"[^"]*"|[^\s<>,;:"'()]+)@[^\s<>,;:"'()]+""")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_QUEUED_AS = re.compile(r"queued as ([\w.+-]{4,})")  # Postfix, SendGrid; apart, as the most usual and quickly found
_QUEUE_ID = re.compile(
    r"queued (?:as |\()([\w.+-]{4,})"  # Haraka
    r"|\b(?:internal)?ids?=([\w.+-]{4,})"  # Exim, KumoMTA; Exchange
    r"|([\w-]{6,}) Message accepted"  # Sendmail, OpenSMTPD
    r"|\bOK +(?:\d{9,} +)?([\w.-]{8,})(?: - gsmtp)?$",  # Amazon SES; Google
    re.IGNORECASE,
)


class BadReplyError(ValueError):
    """What the server sent is not SMTP: no code, mixed codes, an endless line or reply. The connection is unusable."""


class Reply(NamedTuple):
    """One complete reply. `raw` is its text without codes, lines joined by LF, as it came."""

    code: int
    raw: bytes

    @property
    def text(self) -> str:
        """On one line, printable, cut to a length that fits a log event and a database column."""
        text = self.raw.decode("utf-8", "replace")
        if not text.isprintable():
            text = _UNPRINTABLE.sub(" ", text).strip()
        return text[:LOGGED_TEXT_CHARACTERS]

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 2034), if the text begins with one of the same class as the code."""
        match = _ENHANCED.match(self.raw)
        return match[0].decode() if match and int(match[0][:1]) == self.code // 100 else None

    @property
    def queue_id(self) -> str | None:
        """The relay's own name for the email it accepted, where the text tells it."""
        text = self.text
        match = _QUEUED_AS.search(text) or _QUEUE_ID.search(text)
        return next(filter(None, match.groups())) if match else None


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


def without_addresses(text: str) -> str:
    """`text` with every email address replaced: relays like to quote them, and logs must not hold them."""
    return _ADDRESS.sub("<address>", text)


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))
