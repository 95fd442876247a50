"""Emails that are made several in a row, before they start."""

from collections.abc import Sequence

import pytest

from services.sender.campaigns import CampaignFacts
from services.sender.db.worklist import WorklistRow
from services.sender.drafts import DRAFTS_BYTES, MOST_DRAFTS, MOST_KEPT_BYTES, Draft, Drafts
from services.sender.held_batch import HeldBatch
from shared.email_tokens import EmailTokens
from shared.errors import DataError
from shared.messages.message import CampaignHeaders, MessageBuilder
from shared.templates import compile_content
from tests.support.held import facts, held_batch, row

DATE = "Tue, 14 Nov 2023 22:13:20 +0000"


def builder_of(of: CampaignFacts) -> MessageBuilder:
    builder = of.content.builder
    assert builder is not None
    return builder


def made(drafts: Drafts, builder: MessageBuilder, *rows: WorklistRow) -> Sequence[Draft]:
    """Each row's, while those behind it come next."""
    return [drafts.take(builder, one, lambda: rows[at + 1 :]) for at, one in enumerate(rows)]  # noqa: B023


def made_with(held: HeldBatch) -> list[int]:
    """The rows whose emails are made when the next one is taken, that one included."""
    made: list[int] = []
    original = held.facts.tokens

    def tokens(recipient_id: int) -> EmailTokens:
        made.append(recipient_id)
        return original(recipient_id)

    object.__setattr__(held.facts, "tokens", tokens)
    held.draft_of(held.worklist.take(), builder_of(held.facts))
    object.__setattr__(held.facts, "tokens", original)
    return made


def test_an_email_is_the_same_whether_it_is_made_alone_or_with_others() -> None:
    campaign = facts()
    rows = [row(number, data=f'{{"name": "Ann {number}"}}') for number in range(1, 5)]
    alone = [made(Drafts(campaign, DATE, is_old=False), builder_of(campaign), one)[0] for one in rows]
    together = made(Drafts(campaign, DATE, is_old=False), builder_of(campaign), *rows)
    assert list(together) == alone
    assert len({draft.message for draft in together}) == 4


def test_an_email_that_cannot_be_made_says_so_at_its_turn_only() -> None:
    campaign = facts()
    drafts = Drafts(campaign, DATE, is_old=False)
    good, bad, last = row(1), row(2, data="{}"), row(3)
    assert made(drafts, builder_of(campaign), good)
    drafts.take(builder_of(campaign), row(4), lambda: [bad, last])
    with pytest.raises(DataError, match="name"):
        drafts.take(builder_of(campaign), bad, lambda: [last])
    assert drafts.take(builder_of(campaign), last, list)


def test_those_that_start_next_are_made_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sender.drafts.DRAFTS_SECONDS", 60.0)  # a busy machine makes fewer in the usual time
    held = held_batch(*(row(number) for number in range(1, 2 * MOST_DRAFTS)))
    assert made_with(held) == list(range(1, MOST_DRAFTS + 2))
    assert made_with(held) == [], "they are there already"


def test_none_is_made_ahead_for_a_person_who_gets_none() -> None:
    held = held_batch(row(1), row(2, suppressed=True), row(3, email=""), row(4))
    assert made_with(held) == [1, 4]


def test_none_is_made_ahead_in_a_batch_that_only_waits() -> None:
    held = held_batch(row(1), row(2))
    held.give_place_up()
    assert made_with(held) == [1]


def test_a_batch_that_gives_its_place_up_keeps_none() -> None:
    held = held_batch(row(1), row(2))
    assert made_with(held) == [1, 2]
    held.give_place_up()
    assert made_with(held) == [2], "made again"


def test_large_emails_are_made_one_by_one() -> None:
    campaign = facts()

    def most(*texts: str) -> int:
        content = compile_content("Hello {{ name }}", None, "{{ name }}".join(texts))
        return Drafts.most(MessageBuilder(content, CampaignHeaders(campaign.id, "news@example.test")))

    fifteen = "0123456789 " * 1400
    assert most(fifteen * 20) == MOST_DRAFTS, "all share the long text"
    assert most(fifteen * (MOST_KEPT_BYTES // len(fifteen))) == 0, "it would keep the text when its campaign is dropped"
    assert most("short") == MOST_DRAFTS
    assert most(*(f"{number} {fifteen}" for number in range(DRAFTS_BYTES // len(fifteen) // 4))) == 4
    assert most(*(f"{number} {fifteen}" for number in range(DRAFTS_BYTES // len(fifteen) + 1))) == 0
