"""Messages, read back by the standard library's parser."""

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import Parser
from email.policy import default
from email.utils import parseaddr
from typing import Any
from uuid import UUID

import pytest
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.header_text import UNSAFE_IN_HEADER, HeaderError
from shared.messages.message import Attachment, CampaignHeaders, MessageBuilder
from shared.templates import MAX_VALUE_CHARACTERS, RenderError, Value, compile_content

CAMPAIGN = UUID("018f0000-0000-7000-8000-000000000001")
DATE = "Mon, 01 Jan 2024 00:00:00 +0000"
URL = "https://mail.example.com/u/abc_DEF-123"
TOKEN = "haudm5pirx5nmvulzvogl2uamwwvwqyn"


def builder(subject: str = "Hi", html: str | None = None, text: str | None = None, **headers: Any) -> MessageBuilder:
    facts: dict[str, Any] = {"campaign_id": CAMPAIGN, "from_email": "news@example.com"} | headers
    return MessageBuilder(compile_content(subject, html, text), CampaignHeaders(**facts))


def build(made: MessageBuilder, email: str = "anna@example.org", **data: Value) -> bytes:
    return made.build(17, email, data, DATE, URL)


def parsed(raw: bytes) -> EmailMessage:
    """The parsed message, after what holds for every message has been looked at."""
    assert raw.endswith(b"\r\n")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert not raw.startswith(b".")
    assert b"\r\n." not in raw
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    body = raw.partition(b"\r\n\r\n")[2]
    assert body.isascii()
    assert b"\0" not in raw
    assert max((len(line) for line in body.split(b"\r\n")), default=0) <= 78
    message = Parser(EmailMessage, policy=default).parsestr(raw.decode())
    for part in message.walk():
        assert not part.defects
        for header in part.values() if raw.isascii() else ():  # the parser takes SMTPUTF8 for a defect
            assert not getattr(header, "defects", ())
    return message


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def test_headers_of_a_good_bulk_sender() -> None:
    made = builder(
        "Hi {{ name }}",
        text="t",
        from_name="The News",
        reply_to="reply@example.com",
        reply_to_name="Leserbriefe, Köln",
        list_id="news.example.com",
        feedback_id="c1:p1:campaign:vash",
        bounce_domain="bounces.example.com",
    )
    raw = made.build(TOKEN, "anna@example.org", {"name": "Anna"}, DATE, URL)
    message = parsed(raw)
    assert {name: str(value) for name, value in message.items()} == {
        "Date": DATE,
        "Message-ID": "<haudm5pirx5nmvulzvogl2uamwwvwqyn@example.com>",
        "To": "anna@example.org",
        "List-Unsubscribe": f"<{URL}>, <mailto:unsubscribe+{TOKEN}@bounces.example.com>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Subject": "Hi Anna",
        "From": "The News <news@example.com>",
        "Reply-To": '"Leserbriefe, Köln" <reply@example.com>',
        "List-Id": "<news.example.com>",
        "Feedback-ID": "c1:p1:campaign:vash",
        "Precedence": "bulk",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "quoted-printable",
    }
    assert f"\r\nList-Unsubscribe: <{URL}>, <mailto:unsubscribe+{TOKEN}@bounces.example.com>\r\n".encode() in raw
    assert made.build(TOKEN, "anna@example.org", {"name": "Anna"}, DATE, URL) == raw


def test_an_email_that_release_0_1_0_has_begun_to_send_keeps_its_message_id() -> None:
    raw = build(builder(text="t", bounce_domain="bounces.example.com"))
    assert parsed(raw)["Message-ID"] == "<17.018f0000000070008000000000000001@example.com>"
    assert parsed(raw)["List-Unsubscribe"] == f"<{URL}>"


def test_a_long_unsubscribe_link_stays_on_one_line() -> None:
    url = "https://mail.example.com/u/" + "x" * 800
    raw = builder(text="t").build(1, "a@b.de", {}, DATE, url)
    assert parsed(raw)["List-Unsubscribe"] == f"<{url}>"
    assert f"List-Unsubscribe: <{url}>\r\n".encode() in raw


def test_without_a_link_there_is_no_list_unsubscribe() -> None:
    raw = builder(text="t").build(1, "a@b.de", {}, DATE)
    assert b"List-Unsubscribe" not in raw
    with pytest.raises(RenderError, match="unsubscribe_url"):
        builder(text="{{ unsubscribe_url }}").build(1, "a@b.de", {}, DATE)


def test_email_and_link_are_merge_fields_that_data_cannot_change() -> None:
    made = builder(text="{{ email }} {{ unsubscribe_url }}\n")
    assert text_of(parsed(build(made, email="a@b.de")), "plain") == f"a@b.de {URL}\n"
    raw = made.build(1, "a@b.de", {"email": "x", "unsubscribe_url": "y"}, DATE, URL)
    assert text_of(parsed(raw), "plain") == f"a@b.de {URL}\n"


@pytest.mark.parametrize(
    "files", [(), (Attachment("report.pdf", "application/pdf", b"\0\r\n.\r\n--=_m_" + bytes(range(256))),)]
)
@pytest.mark.parametrize(
    ("html", "text", "structure"),
    [
        (None, "Hi {{ name }}", ["text/plain"]),
        ("<p>Hi {{ name }}</p>", "Hi {{ name }}", ["multipart/alternative", "text/plain", "text/html"]),
        ("<p>Hi {{ name }}</p>", None, ["multipart/alternative", "text/plain", "text/html"]),
    ],
)
def test_structure(html: str | None, text: str | None, structure: list[str], files: tuple[Attachment, ...]) -> None:
    message = parsed(build(builder(html=html, text=text, attachments=files), name="Анна"))
    mixed = ["multipart/mixed", *structure, "application/pdf"] if files else structure
    assert [part.get_content_type() for part in message.walk()] == mixed
    assert text_of(message, "plain").strip() == "Hi Анна"
    if html:
        assert text_of(message, "html") == "<p>Hi Анна</p>"
    for file, part in zip(files, message.iter_attachments(), strict=True):
        assert (part.get_filename(), part.get_content()) == (file.filename, file.content)


@pytest.mark.parametrize("with_file", [False, True])
def test_an_inline_image_goes_with_the_html_and_other_files_beside_it(with_file: bool) -> None:
    logo = Attachment("logo.png", "image/png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "logo@example.org")
    file = Attachment("report.pdf", "application/pdf", b"%PDF")
    files = (logo, file) if with_file else (logo,)
    made = builder(html='<p>Hi {{ name }} <img src="cid:logo@example.org"></p>', attachments=files)
    message = parsed(build(made, name="Анна"))
    inner = ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    expected = ["multipart/mixed", *inner, "application/pdf"] if with_file else inner
    assert [part.get_content_type() for part in message.walk()] == expected
    related = next(part for part in message.walk() if part.get_content_type() == "multipart/related")
    assert related.get_param("type") == "text/html"
    image = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert (image["Content-ID"], image.get_content_disposition()) == ("<logo@example.org>", "inline")
    assert image.get_content() == logo.content
    assert 'src="cid:logo@example.org"' in text_of(message, "html")
    _, body, canonical_body = made.build_unsigned(17, "anna@example.org", {"name": "Анна"}, DATE, URL)
    assert b"".join(canonical_body) == Relaxed.canonicalize_body(b"".join(body))


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=255),
    st.binary(max_size=400),
)
def test_any_attachment_comes_back_equal(name: str, content: bytes) -> None:
    if not name.strip():
        return
    made = builder(text="t", attachments=(Attachment(name, "application/octet-stream", content),))
    raw = build(made)
    [part] = parsed(raw).iter_attachments()
    _, body, canonical_body = made.build_unsigned(17, "anna@example.org", {}, DATE, URL)
    assert b"".join(canonical_body) == Relaxed.canonicalize_body(b"".join(body))
    assert part.get_content() == content
    # not by get_filename(), which takes the brackets off "<name>"
    assert part["Content-Disposition"].params["filename"] == name.strip()


ASCII_TEXT = "Plain words with = and . in them, long enough to be wrapped somewhere in the middle of it.\n"
CYRILLIC_TEXT = "Съешь же ещё этих мягких французских булок, да выпей чаю.\n"
PIECES = st.sampled_from(
    [
        ASCII_TEXT,
        CYRILLIC_TEXT,
        ".",
        "..\n",
        "\n",
        "\n.\n",
        " ",
        "  \n",
        "\t",
        "=",
        "=20",
        "From ",
        "\nFrom me",
        "-",
        "--=_a_",
        "é",
        "€",
        "𝄞",
        "\u2028",
        "\x85",
        "\x0c",
        "\0",
    ]
)
LITERALS = st.lists(
    PIECES | st.text(st.characters(exclude_characters="{}<>&\r", exclude_categories=["Cs"]), max_size=8), max_size=12
)
VALUES = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=6).map("".join)
FIELDS = ("a", "b", "c")


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """A template with fields and ifs between pieces short and long, so that every alignment occurs."""
    body = draw(st.sampled_from(["x", ASCII_TEXT * 6, CYRILLIC_TEXT * 6, "ab" * 200]))
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=6)):
        value = f"{{{{ {field} }}}}"
        body += draw(
            st.sampled_from([value, f"{{% if {field} == 'x' %}}{CYRILLIC_TEXT * 5}{{% else %}}{value}{{% endif %}}"])
        )
        body += "".join(draw(LITERALS)) * draw(st.sampled_from([1, 1, 20]))
    return body


@settings(deadline=None, max_examples=300)
@given(bodies(), bodies() | st.none(), st.fixed_dictionaries(dict.fromkeys(FIELDS, VALUES)))
def test_any_body_and_value_come_back_equal(text: str, html: str | None, values: dict[str, Value]) -> None:
    content = compile_content("s", html, text)
    made = MessageBuilder(content, CampaignHeaders(CAMPAIGN, "news@example.com"))
    raw = made.build(1, "a@b.de", values, DATE)
    message = parsed(raw)
    expected_text = content.text.render(values)
    head, body, canonical_body = made.build_unsigned(1, "a@b.de", values, DATE)
    assert head + b"\r\n\r\n" + b"".join(body) == raw
    assert b"".join(canonical_body) == Relaxed.canonicalize_body(b"".join(body))

    if content.html is None:
        assert text_of(message, "plain") in (expected_text, expected_text + "\n")
        assert text_of(message, "plain").endswith("\n") or b"base64" in raw
    else:
        assert text_of(message, "plain") == expected_text
        assert text_of(message, "html") == content.html.render(values)


HEADER_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=300) | st.lists(
    st.sampled_from(
        ["=?utf-8?B?eA==?=", "=?", "?=", " ", "  ", ",", "<x@y.de>", '"', "\\", "é", "𝄞", "word", "(c)", "x" * 100, ":"]
    ),
    max_size=30,
).map("".join)


@settings(deadline=None, max_examples=500)
@given(HEADER_TEXT)
def test_any_subject_comes_back_equal(value: str) -> None:
    message = parsed(build(builder("{{ a }}", text="t"), a=value))
    assert message["Subject"] == value
    assert message.keys().count("Subject") == 1


@settings(deadline=None, max_examples=500)
@given(HEADER_TEXT)
def test_any_name_comes_back_equal(name: str) -> None:
    raw = build(builder(text="t", from_name=name))
    expected = re.sub(" +", " ", name.strip())
    [mailbox] = parsed(raw)["From"].addresses
    assert mailbox.addr_spec == "news@example.com"
    encoded, address = parseaddr(message_from_bytes(raw)["From"])
    assert address == "news@example.com"
    assert str(make_header(decode_header(encoded))) == expected
    if raw.count(b"=?utf-8?B?") < 2:  # between two the parser of Python 3.11 adds a space to a name
        assert mailbox.display_name == expected


EVIL = st.lists(
    st.sampled_from(
        [
            "\r\n",
            "\n",
            "\r",
            "\r\n.\r\n",
            "\n.\n",
            "\r.\r",
            "\n.\r\n",
            ".",
            "Bcc: x@evil.test",
            "MAIL FROM:<x@evil.test>",
            "\r\n\r\n",
            "--=_a_" + CAMPAIGN.hex,
            "--",
            "<script>",
            "\0",
            "\x85",
            "\u2028",
            "=\r\n",
            "Content-Type: text/html",
            " ",
        ]
    ),
    max_size=12,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(EVIL, EVIL)
def test_values_inject_nothing(subject_value: str, body_value: str) -> None:
    made = builder("Hi {{ s }}", html="<p>{{ b }}</p>" + CYRILLIC_TEXT, text=".{{ b }}{{ b }}" + ASCII_TEXT)
    harmless = parsed(build(made, s="x", b="x"))
    message = parsed(build(made, s="x", b=body_value))
    assert message.keys() == harmless.keys()
    assert [part.get_content_type() for part in message.walk()] == [part.get_content_type() for part in harmless.walk()]
    assert "<script>" not in text_of(message, "html")
    if UNSAFE_IN_HEADER.search(subject_value):
        with pytest.raises(RenderError, match="subject"):
            build(made, s=subject_value, b="x")
    else:
        assert parsed(build(made, s=subject_value, b="x")).keys() == harmless.keys()


@pytest.mark.parametrize(
    "headers",
    [
        {"from_name": "A\r\nBcc: x@evil.test"},
        {"from_name": "A\x00"},
        {"from_name": "A\u2028"},
        {"from_name": "A\ud800"},
        {"from_name": "A" * 2001},
        {"from_email": "news"},
        {"from_email": "news@пример.рф"},
        {"list_id": "a b"},
        {"list_id": "a\r\nb"},
        {"feedback_id": "a\r\nb"},
        {"feedback_id": "é"},
        {"attachments": (Attachment("", "application/pdf", b""),)},
        {"attachments": (Attachment("a\r\nb", "application/pdf", b""),)},
        {"attachments": (Attachment("a" * 256, "application/pdf", b""),)},
        {"attachments": (Attachment("a", "application/pdf\r\nX: y", b""),)},
        {"attachments": (Attachment("a", "multipart/mixed", b""),)},
        {"attachments": (Attachment("a", "message/rfc822", b""),)},
    ],
)
def test_facts_of_a_campaign_that_cannot_stand_in_a_header(headers: dict[str, Any]) -> None:
    with pytest.raises(HeaderError):
        builder(text="t", **headers)


@pytest.mark.parametrize(
    ("email", "date", "url"),
    [
        ("a@b.de\r\nBcc: x@evil.test", DATE, URL),
        ("a", DATE, URL),
        ("a@пример.рф", DATE, URL),
        ("a b@b.de", DATE, URL),
        ("a@b.de", DATE + "\r\nX: y", URL),
        ("a@b.de", DATE, URL + "\r\nX: y"),
        ("a@b.de", DATE, URL + ">, <https://evil.test"),
        ("a@b.de", DATE, "javascript:x"),
        ("a@b.de", DATE, URL + "x" * 900),
    ],
)
def test_facts_of_a_recipient_that_cannot_stand_in_a_header(email: str, date: str, url: str) -> None:
    with pytest.raises(HeaderError):
        builder(text="t").build(1, email, {}, date, url)


def test_half_a_character_is_the_recipients_error() -> None:
    for subject, text in (("{{ a }}", "t"), ("s", "{{ a }}"), ("s", "{{ a }}" + CYRILLIC_TEXT)):
        with pytest.raises(RenderError):
            build(builder(subject, text=text), a="\ud800")


def test_only_a_local_part_needs_smtputf8() -> None:
    plain = builder("Привет", text="Привет", from_name="Новости")
    assert not plain.needs_smtputf8("ivan@xn--e1afmkfd.xn--p1ai")
    assert build(plain).isascii()
    assert plain.needs_smtputf8("иван@xn--e1afmkfd.xn--p1ai")
    message = parsed(build(plain, "иван@xn--e1afmkfd.xn--p1ai"))
    assert message["To"] == "иван@xn--e1afmkfd.xn--p1ai"
    assert builder(text="t", from_email="вести@example.com").needs_smtputf8("a@b.de")
    assert builder(text="t", reply_to="вести@example.com").needs_smtputf8("a@b.de")


def test_latin_is_quoted_printable_and_cyrillic_base64() -> None:
    message = parsed(build(builder(html=CYRILLIC_TEXT, text=ASCII_TEXT)))
    encodings = [part["Content-Transfer-Encoding"] for part in message.iter_parts()]
    assert encodings == ["quoted-printable", "base64"]


def test_line_ends_of_values_are_those_of_the_message() -> None:
    raw = build(builder(text="[{{ a }}]" + CYRILLIC_TEXT * 9), a="1\r\n2\r3\n4\r")
    assert text_of(parsed(raw), "plain").startswith("[1\n2\n3\n4\n]")


def test_the_longest_values_stay_within_lines() -> None:
    for text in ("{{ a }}" + CYRILLIC_TEXT * 9, "{{ a }}\n", "{{ a }}" * 40 + ASCII_TEXT * 9):
        for value in ("x", "я", " ", "."):
            value *= MAX_VALUE_CHARACTERS
            assert value in text_of(parsed(build(builder("{{ a }}", text=text), a=value)), "plain")
