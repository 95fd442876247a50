"""Whole messages, ready for the wire: a skeleton is built once per campaign and filled in for each recipient.

A message has only CRLF line ends and ends in one. It is 7-bit, but for RFC 6532 headers if a local part is not ASCII.
Its lines have at most 998 octets, and none begins with a dot, so it needs no dot-stuffing (RFC 5321, 4.5.2).
"""

import re
from base64 import encodebytes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.message import MIMEPart
from email.policy import SMTP
from io import BytesIO
from typing import NamedTuple
from uuid import UUID

from shared.addresses import needs_smtputf8, parse_address
from shared.email_tokens import UNSUBSCRIBE
from shared.header_text import HeaderError, check_content_id, check_content_type, check_file_name, check_header_text
from shared.messages.headers import mailbox, unstructured
from shared.messages.mime import LONG_OCTETS, Encoder, encoder_for, spaced
from shared.templates import Content, RenderError, Template, Value

_LIST_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_ONE_LINE = re.compile(r"[ -~]{1,200}")
_ENVELOPE_SAFE = re.compile(
    '[^\x00-\x20\x7f-\x9f<>()\\[\\]\\\\,;:@"\u2028\u2029\\ud800-\\udfff]{1,64}@[A-Za-z0-9.-]{1,255}'
)
_URL = re.compile(r"https?://[!#-;=?-Z_a-z~]{1,850}")

KEPT_BYTES = 64 * 1024
"""What any campaign takes of a sender's memory, however short its message is."""

SHARED_BYTES = LONG_OCTETS
"""A piece of a message from this length on is not copied."""

_BASE64_LINES = 4096
"""Lines of an attachment that are encoded at once, to need little memory."""


class Attachment(NamedTuple):
    """A file that goes with every email of a campaign. `content_type` as in `application/pdf`."""

    filename: str
    content_type: str
    content: bytes
    # Makes it an image that the HTML shows as `cid:...`; None: a file beside the message.
    content_id: str | None = None


@dataclass(frozen=True, slots=True)
class CampaignHeaders:
    """What all emails of a campaign have in common. Addresses are normalised (`shared.addresses`)."""

    campaign_id: UUID
    from_email: str
    from_name: str = ""
    reply_to: str = ""
    reply_to_name: str = ""
    list_id: str = ""  # of List-Id (RFC 2919), such as `news.example.com`
    feedback_id: str = ""
    bounce_domain: str = ""  # takes unsubscribes by email, for List-Unsubscribe (RFC 2369)
    attachments: tuple[Attachment, ...] = ()


Names = str | int
"""What names an email: its mail token (`shared.email_tokens`), or the recipient's id where release 0.1.0 has begun to
send: its Message-ID must stay as it is."""

Pieces = tuple[bytes, ...]
"""A message or a part of one, cut so that what its campaign fixes (attachments, long texts) is shared by all emails."""


class Unsigned(NamedTuple):
    """A message to be signed with DKIM. No line begins with a dot, so what is signed is what a receiver sees."""

    head: bytes  # without the empty line that follows it
    body: Pieces
    # Relaxed: runs of spaces are one, none ends a line, no empty lines at the end (RFC 6376, 3.4.4).
    canonical_body: Pieces


def joined(pieces: Iterable[bytes]) -> Pieces:
    """The same octets, with short pieces joined. Long ones stay as they are, because joining copies them."""
    out: list[bytes] = []
    short: list[bytes] = []
    for piece in pieces:
        if len(piece) < SHARED_BYTES:
            short.append(piece)
            continue
        if short:
            out.append(b"".join(short))
            short = []
        out.append(piece)
    if short:
        out.append(b"".join(short))
    return tuple(out)


def own_bytes(pieces: Pieces) -> int:
    """About the bytes of a message that it does not share with the others of its campaign."""
    return sum(len(piece) for piece in pieces if len(piece) < SHARED_BYTES)


class MessageBuilder:
    """Builds the messages of one campaign. Raises HeaderError if something cannot be put into a header."""

    def __init__(self, content: Content, headers: CampaignHeaders) -> None:
        _, at, domain = headers.from_email.rpartition("@")
        if not at or not domain.isascii():
            raise HeaderError("From", "needs a normalised address")
        self._domain = domain
        self._campaign_hex = headers.campaign_id.hex
        self._utf8_headers = needs_smtputf8(headers.from_email) or needs_smtputf8(headers.reply_to)
        self._bounce_domain = headers.bounce_domain
        self._subject = content.subject
        self._fixed_subject = _subject(content.subject.render({})) if content.subject.is_fixed else b""
        parts = [("text", content.text), ("html", content.html)]
        first, *others = _parts(
            [(kind, template) for kind, template in parts if template and not template.is_empty], headers
        )
        content_headers, _, before = first.before.partition(b"\r\n\r\n")
        self._parts = [first._replace(before=before), *others]
        self._fixed_headers = _fixed_headers(headers) + content_headers
        self._attached_bytes = sum(len(part.after) for part in self._parts)
        self._max_bytes = content.max_message_bytes
        self._may_exceed = sum(template.longest_bytes for template in content.templates()) * 3 > self._max_bytes
        self._spaced = spaced(piece for part in self._parts for piece in (part.before, part.after))
        for part in self._parts:
            self._spaced |= part.encoder.spaced
        fixed = sum(len(part.before) + len(part.after) for part in self._parts)
        #: About the bytes of memory that it takes.
        self.kept_bytes = KEPT_BYTES + fixed + sum(part.encoder.kept_bytes for part in self._parts)
        #: About the bytes that each message takes, without those that all share.
        self.email_bytes = sum(
            min(SHARED_BYTES, len(part.before)) + min(SHARED_BYTES, len(part.after)) + part.encoder.varied_bytes
            for part in self._parts
        )
        self._has_long = self.kept_bytes > KEPT_BYTES + SHARED_BYTES

    def needs_smtputf8(self, email: str) -> bool:
        """Whether the message to this recipient needs a relay that offers SMTPUTF8."""
        return self._utf8_headers or needs_smtputf8(email)

    def build(self, names: Names, email: str, data: Mapping[str, Value], date: str, unsubscribe_url: str = "") -> bytes:
        """The message to one recipient. The same arguments give the same octets; see `build_unsigned`."""
        return b"".join(self.build_pieces(names, email, data, date, unsubscribe_url))

    def build_pieces(
        self, names: Names, email: str, data: Mapping[str, Value], date: str, unsubscribe_url: str = ""
    ) -> Pieces:
        """The same message, in pieces."""
        head, body = self._head_and_body(names, email, data, date, unsubscribe_url)
        return self._joined((head, b"\r\n\r\n", *body))

    def build_unsigned(
        self, names: Names, email: str, data: Mapping[str, Value], date: str, unsubscribe_url: str = ""
    ) -> Unsigned:
        """The same message, to be signed.

        `date` is an RFC 5322 date, `email` a normalised address. Without `unsubscribe_url` there is no List-Unsubscribe
        header, and the field has no value. Raises RenderError if this recipient's values do not fit."""
        head, pieces = self._head_and_body(names, email, data, date, unsubscribe_url)
        body = canonical = self._joined(pieces)
        if self._spaced:
            canonical = self._joined([self._spaced.get(piece, piece) for piece in pieces])
        return Unsigned(head, body, _without_empty_end(canonical))

    def _head_and_body(
        self, names: Names, email: str, data: Mapping[str, Value], date: str, unsubscribe_url: str
    ) -> tuple[bytes, list[bytes]]:
        values = {**data, "email": email, "unsubscribe_url": unsubscribe_url or None}
        subject = self._fixed_subject or _subject(self._subject.render(values))
        head = self._own_headers(names, email, date, unsubscribe_url) + subject + self._fixed_headers
        out: list[bytes] = []
        try:
            for part in self._parts:
                out.append(part.before)
                part.encoder.encode(part.template.pieces(values), out)
                out.append(part.after)
        except UnicodeEncodeError:
            raise RenderError(part.template.part, "", "a value holds half of a character (a lone surrogate)") from None
        if self._may_exceed and sum(map(len, out)) > self._max_bytes + self._attached_bytes:
            message = f"this recipient's values make the message longer than {self._max_bytes} bytes"
            raise RenderError(part.template.part, "", message)
        if not out[-1] and out[-2] and not out[-2].endswith(b"\r\n"):
            out.append(b"\r\n")
        return head, out

    def _joined(self, pieces: Sequence[bytes]) -> Pieces:
        return joined(pieces) if self._has_long else (b"".join(pieces),)

    def _own_headers(self, names: Names, email: str, date: str, unsubscribe_url: str) -> bytes:
        if not _ENVELOPE_SAFE.fullmatch(email):
            raise HeaderError("To", "needs a normalised address")
        if not _ONE_LINE.fullmatch(date):
            raise HeaderError("Date", "needs an RFC 5322 date")
        unsubscribe = ""
        if unsubscribe_url:
            if not _URL.fullmatch(unsubscribe_url):
                raise HeaderError("List-Unsubscribe", "needs an http(s) URL of at most 850 characters")
            by_email = isinstance(names, str) and self._bounce_domain
            unsubscribe = (
                f"List-Unsubscribe: <{unsubscribe_url}>"
                f"{f', <mailto:{UNSUBSCRIBE}{names}@{by_email}>' if by_email else ''}\r\n"
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
            )
        message_id = names if isinstance(names, str) else f"{names}.{self._campaign_hex}"
        return (
            f"Date: {date}\r\nMessage-ID: <{message_id}@{self._domain}>\r\nTo: {email}\r\n{unsubscribe}Subject: "
        ).encode()


def _without_empty_end(body: Pieces) -> Pieces:
    """The body without empty lines at its end (RFC 6376, 3.4.4)."""
    last = body[-1] if body else b""
    if last != b"\r\n" and not last.endswith(b"\r\n\r\n"):
        return body
    text = b"".join(body).rstrip(b"\r\n")
    return (text + b"\r\n",) if text else ()


class _Part(NamedTuple):
    """One body part, with what comes before and after it."""

    before: bytes
    template: Template
    encoder: Encoder
    after: bytes


def _subject(text: str) -> bytes:
    return unstructured("Subject", text)


def _fixed_headers(headers: CampaignHeaders) -> bytes:
    lines = [b"", b"From: " + _mailbox("From", headers.from_name, headers.from_email)]
    if headers.reply_to:
        lines.append(b"Reply-To: " + _mailbox("Reply-To", headers.reply_to_name, headers.reply_to))
    if headers.list_id:
        if len(headers.list_id) > 255 or not _LIST_ID.fullmatch(headers.list_id):
            raise HeaderError("List-Id", "is letters, digits, - and _ with dots between, such as news.example.com")
        lines.append(b"List-Id: <" + headers.list_id.encode() + b">")
    if headers.feedback_id:
        if not _ONE_LINE.fullmatch(headers.feedback_id):
            raise HeaderError("Feedback-ID", "is at most 200 ASCII characters, such as campaign:project:kind:sender")
        lines.append(b"Feedback-ID: " + headers.feedback_id.encode())
    lines += [b"Precedence: bulk", b"MIME-Version: 1.0", b""]
    return b"\r\n".join(lines)


def _mailbox(header: str, name: str, email: str) -> bytes:
    return mailbox(re.sub(" +", " ", check_header_text(header, name)), parse_address(email).email)


def _parts(templates: list[tuple[str, Template]], headers: CampaignHeaders) -> list[_Part]:
    """Text, or text and HTML as alternatives (RFC 2046, 5.1.4). Inline images go with the HTML into a multipart/related
    (RFC 2387), other attachments beside all of it into a multipart/mixed (RFC 2046, 5.1.3)."""
    alternative = _boundary(headers, "a")
    has_html = any(kind == "html" for kind, _ in templates)
    images = [file for file in headers.attachments if file.content_id is not None and has_html]
    open_mixed, close_mixed = _around(b"mixed", headers, [f for f in headers.attachments if f not in images])
    open_related, close_related = _around(b"related", headers, images)
    parts = []
    for kind, template in templates:
        encoder = encoder_for(template.literals())
        header, close = _entity_header(kind, encoder), b""
        if kind == "html":
            header, close = open_related + header, close_related
        parts.append(_Part(header, template, encoder, close))
    if len(parts) == 1:
        [only] = parts
        close = only.after + close_mixed
        return [only._replace(before=open_mixed + only.before, after=only.encoder.end + close if close else b"")]
    separator = b"--" + alternative + b"\r\n"
    first, second = parts
    return [
        first._replace(
            before=open_mixed + _multipart(b"alternative", alternative) + b"\r\n" + separator + first.before,
            after=first.encoder.end + separator,
        ),
        second._replace(
            after=second.encoder.end + second.after + b"--" + alternative + b"--\r\n" + close_mixed,
        ),
    ]


def _around(kind: bytes, headers: CampaignHeaders, files: Sequence[Attachment]) -> tuple[bytes, bytes]:
    """What stands before and after an entity that goes together with these files; nothing where there are none."""
    if not files:
        return b"", b""
    boundary = _boundary(headers, kind[:1].decode())
    content_type = _multipart(kind, boundary, b'; type="text/html"' if kind == b"related" else b"")
    attached = b"".join(b"--" + boundary + b"\r\n" + _attachment(file) for file in files)
    return content_type + b"\r\n--" + boundary + b"\r\n", attached + b"--" + boundary + b"--\r\n"


def _boundary(headers: CampaignHeaders, kind: str) -> bytes:
    """No encoded body contains `=_`, so nothing that an author or a recipient writes can be a boundary."""
    return f"=_{kind}_{headers.campaign_id.hex}".encode()


def _multipart(kind: bytes, boundary: bytes, parameters: bytes = b"") -> bytes:
    return b"Content-Type: multipart/" + kind + parameters + b';\r\n boundary="' + boundary + b'"\r\n'


def _entity_header(kind: str, encoder: Encoder) -> bytes:
    subtype = b"html" if kind == "html" else b"plain"
    return (
        b"Content-Type: text/" + subtype + b"; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: " + encoder.name + b"\r\n\r\n"
    )


def _attachment(file: Attachment) -> bytes:
    """One attachment with its headers; made once per campaign, so the standard library does it (RFC 2183, RFC 2231)."""
    maintype, _, subtype = check_content_type(file.content_type).partition("/")
    part = MIMEPart(policy=SMTP)
    part.set_content(
        b"",
        maintype,
        subtype,
        cte="base64",
        filename=check_file_name(file.filename),
        disposition="attachment" if file.content_id is None else "inline",
        cid=f"<{check_content_id(file.content_id)}>" if file.content_id is not None else None,
    )
    out = BytesIO()
    out.write(part.as_bytes())
    step = _BASE64_LINES * 57  # octets of a line (RFC 2045, 6.8)
    for start in range(0, len(file.content), step):
        out.write(encodebytes(file.content[start : start + step]).replace(b"\n", b"\r\n"))
    return out.getvalue()
