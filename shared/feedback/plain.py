"""Bounces that are no delivery status notifications: old servers write letters, in the language of their owner."""

import logging
import re
from email import message_from_bytes

from shared.feedback import words
from shared.feedback.meaning import Found, Kind
from shared.feedback.mime import Part, fields
from shared.feedback.status import read_fields, refusal_in

MOST_LIBRARY_BYTES = 20_000
"""Of a mail that flufl.bounce looks at."""

MOST_CHARACTERS = 20_000
LONGEST_REPLY = 500
LINES_BEHIND_ADDRESS = 6

_DAEMON = re.compile(
    r"(?:mailer[-_.]?daemon|postmaster|mail[-_.]?daemon|mdaemon|daemon|mailer|mail[-_. ]?delivery|bounces?|ndr"
    r"|noreply-ndr|microsoftexchange[0-9a-f]*)@",
    re.IGNORECASE,
)
_DAEMON_NAMES = ("mail delivery", "mailer-daemon", "mail administrator", "postmaster", "system administrator")
_REPLY = re.compile(
    r"(?<![\w.:/-])[45]\d\d[ \-]{1,2}#?[(<]?#?[245]\.\d{1,3}\.\d{1,3}\b.{0,400}"
    # Without an enhanced code a number of three digits is a reply only where one is expected.
    r"|(?:(?<=\n)|(?<=\A)|(?<=[:'\"(<;>] )|(?<=[:'\"(<;>])|(?<=said )|(?<=returned )|(?<=error ))"
    r"[45]\d\d[ \-](?=\S).{0,400}"
)
_ENHANCED = re.compile(r"#[45]\.\d{1,3}\.\d{1,3}\b")
_ADDRESS = re.compile(r"<?[^\s<>@,;:\"']{1,64}@[A-Za-z0-9\x80-\U0010ffff.-]{1,255}")
_RETURNED_BELOW = re.compile(
    r"^-{2,20}.{0,80}(?:original|copy of|returned|unsent|below this line|исходн|ursprüng|元の|原邮件|原始).{0,80}$"
    r"|^(?:received: from|return-path:) .{0,200}$",
    re.IGNORECASE | re.MULTILINE,
)

logging.getLogger("flufl.bounce").disabled = True  # it logs each step


def is_daemon(mail: Part, sender: str | None) -> bool:
    """Whether a mail comes from a mail system and not from a person. `sender` is the envelope's: empty for bounces."""
    if sender == "" or mail.header("x-failed-recipients"):
        return True
    if mail.header("return-path").strip() == "<>":
        return True
    author = mail.header("from")
    return bool(_DAEMON.search(author)) or any(name in author.lower() for name in _DAEMON_NAMES)


def own_text(mail: Part) -> str:
    """What its author wrote, without the message that it returns."""
    texts = [
        part.text()[:MOST_CHARACTERS]
        for part in _own_parts(mail)
        if part.type.startswith("text/") or "/" not in part.type
    ]
    text = "\n".join(texts).replace("\r\n", "\n").replace("\r", "\n")[:MOST_CHARACTERS]
    below = _RETURNED_BELOW.search(text)
    return text[: below.start()] if below is not None and below.start() > 0 else text


def _own_parts(mail: Part) -> list[Part]:
    if not mail.parts:
        return [mail]
    if not mail.type.startswith("multipart/"):
        return []
    inner = [one for part in mail.parts for one in _own_parts(part)]
    if mail.type == "multipart/alternative":  # the same twice
        return [one for one in inner if one.type == "text/plain"][:1] or inner[:1]
    return inner


def refusal_text(text: str) -> str:
    """The reply that a letter quotes; else the lines behind the address that it is about; else nothing."""
    found = _REPLY.search(text)
    if found is not None:
        rest = text[found.start() : found.start() + LONGEST_REPLY]
        return " ".join(rest.partition("\n\n")[0].split())
    marked = _ENHANCED.search(text)
    if marked is not None:
        line = text[text.rfind("\n", 0, marked.start()) + 1 : text.find("\n", marked.end()) + 1 or None]
        return " ".join(line.split())[:LONGEST_REPLY]
    lines = [line for line in text.split("\n")[:100] if line.strip()]
    for number, line in enumerate(lines):
        if _ADDRESS.search(line):
            return " ".join(" ".join(lines[number : number + LINES_BEHIND_ADDRESS]).split())[:LONGEST_REPLY]
    return ""


def read_plain(octets: bytes, mail: Part, *, from_daemon: bool) -> Found | None:
    """What a letter says of delivery; None if it says nothing of it."""
    text = own_text(mail)
    if "final-recipient:" in text.lower() and (found := read_fields(fields(text))) is not None:
        return found  # a delivery status whose MIME is lost
    subject = mail.header("subject").lower()
    lowered = f"{subject}\n{text.lower()}"
    exim = mail.header("x-failed-recipients")
    if not from_daemon and not any(phrase in subject for phrase in words.FAILED + words.DELAYED):
        return None
    detail = refusal_text(text)
    refusal = refusal_in(detail)
    says_delayed = any(phrase in subject for phrase in words.DELAYED) or (
        any(phrase in lowered for phrase in words.DELAYED) and refusal.code // 100 != 5
    )
    given_up = any(phrase in lowered for phrase in words.GIVEN_UP)
    failed = bool(exim) or refusal.code // 100 == 5 or any(phrase in lowered for phrase in words.FAILED)
    kind = Kind.DELAYED if says_delayed and not given_up else Kind.BOUNCED if failed or given_up else None
    addresses = tuple(one.strip() for one in exim.split(",") if one.strip())[:10]
    if kind is None:
        temporary, permanent = _by_library(octets)
        addresses = permanent or temporary
        kind = Kind.BOUNCED if permanent else Kind.DELAYED
        if not addresses:
            return None
    return Found(kind, (), refusal.code, refusal.enhanced, detail or _first_words(text), addresses)


def _first_words(text: str) -> str:
    return " ".join(text[:1000].split())[:200]


def _by_library(octets: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Addresses by temporary and by permanent failures."""
    from flufl.bounce import all_failures  # only few mails need it

    try:
        temporary, permanent = all_failures(message_from_bytes(octets[:MOST_LIBRARY_BYTES]))
    except Exception:  # noqa: BLE001 - it was written for mails, not for any bytes
        return (), ()
    return _texts(temporary), _texts(permanent)


def _texts(addresses: object) -> tuple[str, ...]:
    found = addresses if isinstance(addresses, frozenset | set) else ()
    texts = (one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in found)
    return tuple(sorted(text[:320] for text in texts if "@" in text))[:10]
