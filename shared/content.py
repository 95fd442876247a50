"""What a campaign says, as it is kept in `campaign.content`: templates and attachments."""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from shared.errors import DataError
from shared.header_text import check_content_id, check_content_type, check_file_name

# An image of the message itself (RFC 2392) in an attribute or a style of the HTML.
_CID = re.compile(
    r"""(?:\b(?:src|background|poster|href|data)\s*=\s*(?:["']\s*)?|\burl\(\s*["']?)cid:([^"'\s<>)]+)""", re.IGNORECASE
)
_URL_SAFE = re.compile("[A-Za-z0-9_-]+=*")

LONG_CHARACTERS = 1_000_000
"""A file's base64 from this length on is not kept beside the file."""


def _decoded(value: object) -> bytes:
    """Strict base64 (RFC 4648, section 4); line breaks are allowed as MIME writes them."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("is base64 text")
    if value.lstrip()[:5].lower() == "data:":
        raise ValueError("begins with data:, which is a URL; give only the base64 behind the comma")
    text = value
    for space in " \t\r\n":  # a regular expression takes ten times as long
        text = text.replace(space, "")
    if ("-" in text or "_" in text) and _URL_SAFE.fullmatch(text):
        raise ValueError("is URL-safe base64; use the standard alphabet with + and / (RFC 4648, section 4)")
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise ValueError(f"is not base64 (RFC 4648, section 4): {error}") from None


def _encoded(content: bytes) -> str:
    return b64encode(content).decode()


class InlineImageError(DataError):
    """An inline image and the HTML do not fit together. `part` is the member of the content to mend."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part} {reason}")
        self.part = part
        self.reason = reason


class Attachment(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    filename: Annotated[str, AfterValidator(check_file_name)] = Field(
        min_length=1, max_length=255, examples=["price-list.pdf"]
    )
    content_type: Annotated[str, AfterValidator(check_content_type)] = Field(
        "application/octet-stream", examples=["application/pdf"]
    )
    content: Annotated[
        bytes,
        BeforeValidator(_decoded, json_schema_input_type=str),
        PlainSerializer(_encoded, return_type=str),
    ] = Field(description="The file, in base64 (RFC 4648, section 4).", examples=["JVBERi0xLjQ="])
    content_id: Annotated[str, AfterValidator(check_content_id)] | None = Field(
        None,
        description='Makes the file an inline image: the HTML shows it with `src="cid:..."`.',
        examples=["logo"],
    )

    @model_validator(mode="before")
    @classmethod
    def _decode_in_place(cls, values: Any) -> Any:
        """Replaces a long text by the file it stands for, so that not both are in memory. What is wrong with it is said
        by its field."""
        text = values.get("content") if isinstance(values, dict) else None
        if isinstance(text, str) and len(text) > LONG_CHARACTERS:
            with suppress(ValueError):
                values["content"] = _decoded(text)
        return values

    @model_serializer(mode="wrap")
    def _without_absent_id(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A sender of release 0.1.0 refuses members it does not know.
        values: dict[str, Any] = handler(self)
        if self.content_id is None:
            values.pop("content_id", None)
        return values


class CampaignContent(BaseModel):
    """Templates in the subset of Jinja2 that `shared.templates` checks. Without `text`, it is derived from `html`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    subject: str = Field(min_length=1, max_length=998, examples=["{{ first_name }}, our spring news"])
    html: str | None = Field(None, examples=["<p>Hello {{ first_name|default('there') }}!</p>"])
    text: str | None = None
    attachments: tuple[Attachment, ...] = ()


def stored_json(content: CampaignContent) -> str:
    """The content as JSON, as pydantic writes it, but with less memory for large attachments."""
    texts = content.model_copy(update={"attachments": ()}).model_dump_json()
    files = []
    for file in content.attachments:
        members = file.model_copy(update={"content": b""}).model_dump_json().partition('"content":""')
        files.append((members[0], '"content":"', _encoded(file.content), '"', members[2]))
    before, _, after = texts.rpartition('"attachments":[]')
    pieces = [piece for number, file in enumerate(files) for piece in (("," if number else ""), *file)]
    return "".join((before, '"attachments":[', *pieces, "]", after))


def check_inline_images(content: CampaignContent) -> None:
    """Raises InlineImageError where the HTML shows an image that is not attached, or two share an id."""
    ids = [file.content_id for file in content.attachments if file.content_id is not None]
    twice = next((one for one in ids if ids.count(one) > 1), None)
    if twice is not None:
        raise InlineImageError("attachments", f"two attachments have the content_id {twice!r}")
    for shown in _CID.findall(content.html or ""):
        if unquote(shown) not in ids:
            raise InlineImageError("html", f"shows cid:{shown[:100]}, but no attachment has that content_id")
