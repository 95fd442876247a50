"""The table of refusals, against replies of the field and row by row."""

import csv
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.replies_page import PAGE, page
from shared.faults.judge import MOST_CHARACTERS, enhanced_code, judge, normalised, row_for
from shared.faults.meaning import Consequence, Fault
from shared.faults.table import NOT_A_REFUSAL, TABLE
from shared.relays.replies import Stage

DATA = Path(__file__).parents[1] / "data"
SOFT = (Consequence.RETRY, Consequence.HOLD, Consequence.REROUTE, Consequence.RECONNECT, Consequence.SLOW)


@cache
def field() -> list[tuple[str, str, str, str, str]]:
    """The corpus: stage, meaning, server, source, reply."""
    lines = (DATA / "replies.tsv").read_text(encoding="utf-8").splitlines()
    rows = csv.reader((line for line in lines if not line.startswith("#")), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(stage, meaning, server, source, reply) for stage, meaning, server, source, reply in rows]


def split(reply: str) -> tuple[int, str]:
    """A reply as the corpus writes it: basic code (0 where a report gives only an enhanced one) and text."""
    code, _, text = reply.replace("\\n", "\n").partition(" ")
    return (int(code), text) if code.isdecimal() else (0, reply)


@pytest.mark.parametrize(("stage", "meaning", "server", "source", "reply"), field())
def test_a_reply_of_the_field(stage: str, meaning: str, server: str, source: str, reply: str) -> None:
    code, text = split(reply)
    judgement = judge(Stage(stage), code, text)
    assert judgement.consequence == meaning, f"{server}: {judgement.why}"


def test_the_corpus_is_large_and_each_meaning_has_a_source() -> None:
    sources = {line.split("\t")[0] for line in (DATA / "replies_sources.tsv").read_text(encoding="utf-8").splitlines()}
    assert len(field()) >= 600
    assert {source for _, _, _, source, _ in field()} == sources
    assert {meaning for _, meaning, _, _, _ in field()} == set(Consequence)


def test_every_row_decides_some_reply() -> None:
    decided = {id(row_for(Stage(stage), *split(reply))) for stage, _, _, _, reply in field()}
    assert [row.why for row in TABLE if id(row) not in decided] == []


@given(st.sampled_from(Stage), st.integers(400, 599), st.text(max_size=300))
def test_every_refusal_finds_a_row(stage: Stage, code: int, text: str) -> None:
    assert row_for(stage, code, text) in TABLE


@pytest.mark.parametrize("code", [0, 200, 250, 354])
def test_what_is_no_refusal_blames_the_relay(code: int) -> None:
    assert row_for(Stage.DOT, code, "Ok") is NOT_A_REFUSAL
    assert NOT_A_REFUSAL.consequence.fault is Fault.RELAY


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.2.1", "5.7.13", "5.1.10", "5.4.1", ""])
@pytest.mark.parametrize(
    "words",
    [
        "The user is receiving mail at a rate that prevents additional messages",
        "Greylisted, see http://example.org/user-unknown",
        "mailbox full",
        "User is over quota",
        "The inbox is out of storage space",
        "no such user, try again later",
        "User unknown; storage exceeded",
        "Account limit reached; mailbox unavailable",
        "Invalid recipient: hourly rate exceeded",
        "rate limit exceeded",
        "message too large",
        "Ящик переполнен",
        "Speicherplatz überschritten",
        "La boîte aux lettres est pleine",
        "El buzón está lleno",
        "收件人空间不足",
        "Casella di posta piena",
        "A caixa de correio está cheia",
        "Skrzynka odbiorcy jest przepełniona",
        "Postvak is vol",
        "Schránka je plná",
        "受信者のメールボックスがいっぱいです",
        "받는 사람의 메일함 용량이 초과되었습니다",
        "Пользователь получает письма слишком часто",
        "L'utente riceve troppi messaggi",
        "This mailbox has exceeded its daily receiving limit",
        "Recipient mailbox is busy",
    ],
)
def test_words_of_patience_never_suppress(enhanced: str, words: str) -> None:
    for stage in (Stage.RCPT, Stage.DOT, Stage.REPORT):
        judgement = judge(stage, 550, f"{enhanced} {words}".strip())
        assert judgement.consequence in (*SOFT, Consequence.FAIL)
        assert judgement.consequence is not Consequence.FAIL or "large" in words


def test_before_the_recipient_is_named_nothing_is_its_fault() -> None:
    for row in TABLE:
        if row.consequence in (Consequence.SUPPRESS, Consequence.HOLD, Consequence.REROUTE, Consequence.SPREAD):
            assert not row.stages & {Stage.BANNER, Stage.EHLO, Stage.AUTH, Stage.MAIL}


def test_only_words_or_mail_itself_pause_a_campaign_at_once() -> None:
    assert all(row.words or row.stages == {Stage.MAIL} for row in TABLE if row.consequence is Consequence.PAUSE)


def test_only_a_permanent_code_suppresses() -> None:
    assert all(row.code and row.code[0] == "5" for row in TABLE if row.consequence is Consequence.SUPPRESS)


def test_an_address_or_a_link_says_nothing() -> None:
    told = judge(Stage.RCPT, 550, "5.1.1 <greylist@quota.example>: User unknown; see https://x.example/try-again-later")
    assert told.consequence is Consequence.SUPPRESS


def test_several_lines_read_as_one() -> None:
    assert (
        normalised("5.2.1 is receiving mail at a rate that\n5.2.1 prevents")
        == " is receiving mail at a rate that prevents "
    )


def test_the_same_refusal_of_two_recipients_has_the_same_words() -> None:
    one = "<ann@example.org>: rejected; client [192.0.2.1] blocked p131si8414989. See https://x.example/?ip=192.0.2.1"
    other = (
        "<bob@example.net>: rejected; client [192.0.2.1] blocked q42si123456789. See https://x.example/?ip=192.0.2.2"
    )
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (550, "5.1.1 User unknown", "5.1.1"),
        (553, "sorry, no mailbox here by that name. (#5.1.1)", "5.1.1"),
        (450, "5.1.1 codes that disagree", None),
        (550, "host 10.5.1.1 said no", None),
        (550, "version 5.1.1 is old", None),
        (0, "5.4.4 Host not found", "5.4.4"),
    ],
)
def test_the_enhanced_code_is_found_where_servers_write_it(code: int, text: str, expected: str | None) -> None:
    assert enhanced_code(code, text) == expected


def test_a_report_gives_its_status_apart() -> None:
    assert judge(Stage.REPORT, 0, "the mailbox is gone", "5.1.1").consequence is Consequence.SUPPRESS


def test_several_of_one_provider_make_it_suspect() -> None:
    assert judge(Stage.RCPT, 451, "4.7.1 not now").suspect_provider
    assert judge(Stage.RCPT, 421, "4.3.2 closing").suspect_provider
    assert judge(Stage.DOT, 550, "5.7.26 unauthenticated").suspect_provider
    assert not judge(Stage.RCPT, 451, "4.7.1 Greylisted").suspect_provider
    assert not judge(Stage.RCPT, 452, "4.2.2 mailbox full").suspect_provider


@pytest.mark.parametrize("text", ["exceeded " * 500, "boite " * 500, "a" * 60_000, "5.1.1 " * 10_000, "ÿ" * 9_000])
def test_a_long_reply_costs_little(text: str) -> None:
    row_for(Stage.RCPT, 550, text)
    took = []
    for _ in range(5):
        began = time.process_time()
        row_for(Stage.RCPT, 550, text)
        took.append(time.process_time() - began)
    assert min(took) < 0.005
    assert len(normalised(text[:MOST_CHARACTERS])) <= MOST_CHARACTERS * 4


def test_the_page_is_in_step_with_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m scripts.replies_page"
