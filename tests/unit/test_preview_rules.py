"""What a preview warns about: each rule on an email that breaks it, and on one that does not."""

import pytest

from services.api.usecases.preview_rules import RULES, warnings_about
from services.api.usecases.read_email import Email
from shared.messages.message import Attachment

UNSUBSCRIBE = "https://mail.example.com/u/token"
LEAVE = f'<p><a href="{UNSUBSCRIBE}">Unsubscribe</a></p>'
WORDS = "<p>" + "word " * 30 + "</p>"


def an_email(
    html: str | None = WORDS + LEAVE,
    *,
    subject: str = "Our spring news",
    from_email: str = "news@example.com",
    text: str = f"Hello. {UNSUBSCRIBE}",
    attachments: tuple[Attachment, ...] = (),
) -> Email:
    return Email(5000, from_email, [], subject, html, text, attachments, UNSUBSCRIBE)


def rules(email: Email) -> dict[str, str]:
    return dict(warnings_about(email))


def attached(name: str, size: int = 10) -> Attachment:
    return Attachment(name, "application/octet-stream", b"x" * size)


BROKEN: list[tuple[str, Email, str]] = [
    ("subject-in-capitals", an_email(subject="SPRING NEWS"), "capitals"),
    ("subject-in-capitals", an_email(subject="ВЕСЕННИЕ НОВОСТИ"), "capitals"),
    ("subject-shouts", an_email(subject="Buy now!!"), "marks"),
    ("subject-shouts", an_email(subject="Earn $$$ at home"), "money"),
    ("subject-pretends", an_email(subject="Re: your order"), "reply"),
    ("subject-pretends", an_email(subject="FW: news"), "forwarded"),
    ("from-mailbox-provider", an_email(from_email="shop@gmail.com"), "gmail.com"),
    ("from-mailbox-provider", an_email(from_email="shop@yandex.ru"), "DMARC"),
    ("no-unsubscribe-link", an_email(WORDS), "{{ unsubscribe_url }}"),
    ("no-unsubscribe-link", an_email(None, text="Hello."), "unsubscribe"),
    ("empty-text", an_email(text=" \n"), "empty"),
    ("only-images", an_email(f'<img src="https://x.example/a.png" alt="All">{LEAVE}'), "1 word"),
    ("clipped", an_email("<p>" + "word " * 25_000 + LEAVE), "102 KB"),
    (
        "misleading-link",
        an_email(f'{WORDS}<a href="https://evil.example/x">www.bank.com</a>{LEAVE}'),
        "www.bank.com leads to evil.example",
    ),
    ("misleading-link", an_email(f'{WORDS}<a href="https://t.example">https://bank.com/in</a>{LEAVE}'), "phishing"),
    ("shortened-link", an_email(f'{WORDS}<a href="https://bit.ly/x">Read</a>{LEAVE}'), "bit.ly"),
    ("insecure-link", an_email(f'{WORDS}<a href="HTTP://x.example/">Read</a>{LEAVE}'), "x.example"),
    ("insecure-link", an_email(f'{WORDS}<img alt="" src="http://x.example/a.png">{LEAVE}'), "x.example"),
    ("relative-link", an_email(f'{WORDS}<a href="/news">Read</a>{LEAVE}'), "/news"),
    ("relative-link", an_email(f'{WORDS}<a href="">Read</a>{LEAVE}'), "an empty one"),
    ("image-without-alt", an_email(f'{WORDS}<img src="https://x.example/a.png">{LEAVE}'), "a.png"),
    ("data-image", an_email(f'{WORDS}<img alt="" src="data:image/png;base64,AA==">{LEAVE}'), "content_id"),
    ("missing-image", an_email(f'{WORDS}<img src="cid:logo" alt="">{LEAVE}'), "logo"),
    ("active-content", an_email(f"{WORDS}<script>go()</script><form></form>{LEAVE}"), "<form>, <script>"),
    ("style-sheet", an_email(f'<link rel="stylesheet" href="https://x.example/a.css">{WORDS}{LEAVE}'), "styles"),
    ("large-attachments", an_email(attachments=(attached("a.pdf", 3_000_000), attached("b.pdf", 3_000_000))), "6.0 MB"),
    ("risky-attachment", an_email(attachments=(attached("Price.EXE"),)), "Price.EXE"),
]

FINE = [
    an_email(),
    an_email(None),
    an_email(subject="NASA"),
    an_email(subject="Regards from Rome: what is new?"),
    an_email(subject="新聞新聞新聞新聞新聞"),
    an_email(from_email="news@mail.gmail.example"),
    an_email(f'{WORDS}<a href="https://www.bank.com/in">bank.com</a>{LEAVE}'),
    an_email(f'{WORDS}<a href="https://news.bank.com/in">https://bank.com</a>{LEAVE}'),
    an_email(f'{WORDS}<a href="mailto:ann@example.com">ann@example.com</a>{LEAVE}'),
    an_email(f'{WORDS}<a href="https://example.com/x">Node.js 20</a><a href="#top">Up</a>{LEAVE}'),
    an_email(
        f'{WORDS}<img src="cid:a%20logo" alt="">{LEAVE}',
        attachments=(Attachment("logo.png", "image/png", b"x", "a logo"),),
    ),
    an_email(f"<style>{'p{color:red}' * 5}</style>{WORDS}{LEAVE}"),
    an_email(attachments=(attached("a.pdf"), attached("example.com.pdf"))),
]


@pytest.mark.parametrize(("rule", "email", "says"), BROKEN, ids=lambda one: one if isinstance(one, str) else "")
def test_a_rule_that_is_broken_is_reported_alone(rule: str, email: Email, says: str) -> None:
    found = rules(email)
    assert list(found) == [rule]
    assert says in found[rule]
    assert found[rule].endswith(".")


@pytest.mark.parametrize("email", FINE)
def test_an_ordinary_email_breaks_no_rule(email: Email) -> None:
    assert rules(email) == {}


def test_every_rule_has_an_example_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_many_of_a_kind_are_counted() -> None:
    links = "".join(f'<a href="http://{n}.example/">Read</a>' for n in range(5))
    assert rules(an_email(WORDS + links + LEAVE))["insecure-link"].endswith("2.example and 2 more.")


def test_an_address_that_cannot_be_parsed_is_passed_over() -> None:
    assert rules(an_email(f'{WORDS}<a href="https://[::1/x">Read</a>{LEAVE}')) == {}
