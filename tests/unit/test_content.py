"""Attachments: what is no base64 is refused in words, and inline images fit the HTML that shows them."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.content import Attachment, CampaignContent, InlineImageError, check_inline_images, stored_json


def attached(content: str, **members: str) -> Attachment:
    return Attachment.model_validate({"filename": "a.pdf", "content": content, **members})


@given(st.binary(max_size=200))
def test_every_file_comes_back_equal_from_its_stored_form(content: bytes) -> None:
    first = attached(base64.b64encode(content).decode())
    again = Attachment.model_validate_json(first.model_dump_json())
    assert first.content == again.content == content


@pytest.mark.parametrize("wrapped", ["JVBE\nRi0x\r\nLjQ=\n", " JVBERi0xLjQ= "])
def test_base64_may_be_wrapped_as_mime_writes_it(wrapped: str) -> None:
    assert attached(wrapped).content == b"%PDF-1.4"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("data:application/pdf;base64,JVBERi0xLjQ=", "data:"),
        ("_-7-", "URL-safe"),
        ("JVBERi0xLjQ", "not base64"),
        ("JVBERi0xLjQ==", "not base64"),
        ("JVBE=Ri0xLjQ=", "not base64"),
        ("%PDF-1.4", "not base64"),
        ("=", "not base64"),
        ("Привет", "not base64"),
        ("JVBE*Ri0x", "not base64"),
    ],
)
def test_what_would_arrive_as_a_corrupt_file_is_refused(content: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        attached(content)


def test_a_file_without_content_id_is_stored_as_release_0_1_0_reads_it() -> None:
    stored = json.loads(CampaignContent(subject="s", text="t", attachments=(attached("JVBE"),)).model_dump_json())
    assert stored["attachments"] == [
        {"filename": "a.pdf", "content_type": "application/octet-stream", "content": "JVBE"}
    ]


@pytest.mark.parametrize("content_id", ["", "<logo>", "lo go", "logo\r\nX: y", "a" * 101, "логотип"])
def test_a_content_id_is_one_word(content_id: str) -> None:
    with pytest.raises(ValidationError):
        attached("JVBE", content_id=content_id)


@pytest.mark.parametrize(
    "html",
    [
        '<img src="cid:logo">',
        "<img src='cid:logo'>",
        "<img src=cid:logo>",
        "<IMG SRC = 'CID:logo'>",
        '<td background="cid:logo">',
        '<div style="background: url(cid:logo)">',
        "<style>p { background: url('cid:logo') }</style>",
        '<p>The address begins with cid:other</p><img src="cid:logo">',
    ],
)
def test_an_image_the_html_shows_must_be_attached(html: str) -> None:
    check_inline_images(content(html, "logo"))
    with pytest.raises(InlineImageError, match="cid:logo") as caught:
        check_inline_images(content(html, "another"))
    assert caught.value.part == "html"


def test_two_images_with_one_id_are_refused() -> None:
    with pytest.raises(InlineImageError, match="'logo'"):
        check_inline_images(content('<img src="cid:logo">', "logo", "logo"))


def content(html: str, *ids: str) -> CampaignContent:
    files = tuple(attached("JVBE", content_id=one) for one in ids)
    return CampaignContent(subject="s", html=html, attachments=files)


def test_the_stored_json_is_what_pydantic_writes() -> None:
    """A file name or a text may contain what marks the place of a content."""
    files = [
        Attachment(filename='"content":"".pdf', content_type="application/pdf", content=bytes(range(256))),
        Attachment(filename="b", content=b"", content_id="logo"),
    ]
    for attachments in (files, files[:1], []):
        content = CampaignContent(subject='"attachments":[]', text="Привет\n", attachments=tuple(attachments))
        assert stored_json(content) == content.model_dump_json()
