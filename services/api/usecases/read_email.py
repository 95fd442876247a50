"""An email as its recipient's program shows it: read back from the octets that would be sent."""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser

from shared.messages.message import Attachment

# As `shared.messages.headers` writes them; the space between two of them is no text.
_ENCODED = re.compile(r"=\?utf-8\?B\?([^?]*)\?=(?: (?==\?utf-8\?B\?))?")
_URL = re.compile(r"https?://[^\s<>\"')\]]+")


class Link(NamedTuple):
    """A link. `text` stands in its place; empty in plain text."""

    url: str
    text: str


class Page:
    """What rules ask about the HTML."""

    def __init__(self, html: str) -> None:
        document = LexborHTMLParser(html)
        self.links = [
            Link((node.attributes.get("href") or "").strip(), " ".join(node.text(deep=True, separator=" ").split()))
            for node in document.css("a[href], area[href]")
        ]
        self.images: Sequence[Mapping[str, str | None]] = [node.attributes for node in document.css("img")]
        self.tags = frozenset(node.tag or "" for node in document.css("script, form, iframe, object, embed, link"))
        document.strip_tags(["style", "script", "title", "template"])
        self.words = len(document.body.text(separator=" ").split()) if document.body else 0


@dataclass(frozen=True)
class Email:
    """A whole email, read back."""

    size_bytes: int
    from_email: str
    # Decoded, in the order of the message.
    headers: Sequence[tuple[str, str]]
    subject: str
    html: str | None
    text: str
    attachments: Sequence[Attachment]
    unsubscribe_url: str

    @cached_property
    def page(self) -> Page | None:
        """None without HTML."""
        return Page(self.html) if self.html is not None else None

    @cached_property
    def html_bytes(self) -> int:
        return len(self.html.encode()) if self.html is not None else 0

    @cached_property
    def links(self) -> Sequence[Link]:
        """Those of the HTML; without HTML those of the text."""
        if self.page is not None:
            return self.page.links
        return [Link(url.rstrip(".,;:!?"), "") for url in _URL.findall(self.text)]


def read_email(octets: bytes, from_email: str, attachments: Sequence[Attachment], unsubscribe_url: str) -> Email:
    """Reads a message that `shared.messages` has built."""
    parsed = Parser().parsestr(octets.decode())
    headers = [(name, _decoded(value)) for name, value in parsed.items()]
    html = _body(parsed, "text/html")
    return Email(
        size_bytes=len(octets),
        from_email=from_email,
        headers=headers,
        subject=dict(headers)["Subject"],
        html=html,
        text=_body(parsed, "text/plain") or "",
        attachments=attachments,
        unsubscribe_url=unsubscribe_url,
    )


def _decoded(value: str) -> str:
    """A header on one line, with its encoded words (RFC 2047) as text. The standard library's decoder garbles those
    that stand beside characters beyond ASCII (RFC 6532)."""
    return _ENCODED.sub(lambda word: b64decode(word[1]).decode(), " ".join(value.split()))


def _body(message: Message, content_type: str) -> str | None:
    for part in message.walk():
        if part.get_content_type() == content_type and part.get_content_disposition() is None:
            return bytes(part.get_payload(decode=True)).decode().replace("\r\n", "\n")
    return None
