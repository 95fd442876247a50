"""What a relay answers, and where in the dialogue it does."""

import re
from enum import StrEnum
from typing import NamedTuple

LOGGED_TEXT_CHARACTERS = 500

_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")
_ADDRESS = re.compile(r"""(?:"[^"]*"|[^\s<>,;:"'()]+)@[^\s<>,;:"'()]+""")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_QUEUED_AS = re.compile(r"queued as ([\w.+-]{4,})")  # Postfix, SendGrid; tried first: the most common, found fast
_QUEUE_ID = re.compile(
    r"queued (?:as |\()([\w.+-]{4,})"  # Haraka
    r"|\b(?:internal)?ids?=([\w.+-]{4,})"  # Exim, KumoMTA; Exchange
    r"|([\w-]{6,}) Message accepted"  # Sendmail, OpenSMTPD
    r"|\bOK +(?:\d{9,} +)?([\w.-]{8,})(?: - gsmtp)?$",  # Amazon SES; Google
    re.IGNORECASE,
)


class Stage(StrEnum):
    """A part of the SMTP dialogue (RFC 5321, section 3), or the time after it."""

    CONNECT = "connect"
    BANNER = "banner"
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DOT = "dot"
    REPORT = "report"  # a delivery status notification (RFC 3464), after a relay has accepted the email


class Reply(NamedTuple):
    """One complete reply (RFC 5321, 4.2)."""

    #: 200 to 599; 0 where the relay said nothing and `raw` is our own description of what happened.
    code: int
    #: The text as received, without the codes; lines are joined by LF.
    raw: bytes

    @property
    def text(self) -> str:
        """The text on one line, printable, at most `LOGGED_TEXT_CHARACTERS` long: fit for logs and the ledger."""
        text = self.raw.decode("utf-8", "replace")
        if not text.isprintable():
            text = _UNPRINTABLE.sub(" ", text).strip()
        return text[:LOGGED_TEXT_CHARACTERS]

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 2034), if the text begins with one of the same class as the code."""
        match = _ENHANCED.match(self.raw)
        return match[0].decode() if match and int(match[0][:1]) == self.code // 100 else None


def queue_id_in(text: str) -> str | None:
    """The relay's own name for an email that it accepted with this text, if it gives one."""
    match = _QUEUED_AS.search(text) or _QUEUE_ID.search(text)
    return next(filter(None, match.groups())) if match else None


def without_addresses(text: str) -> str:
    """`text` with every email address replaced: relays often quote addresses, and logs must not hold them."""
    return _ADDRESS.sub("<address>", text)
