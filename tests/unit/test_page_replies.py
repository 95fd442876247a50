"""Replies in groups, and the batches that a sample is taken from."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.api.usecases import replies
from shared.reply_text import general


def row(email: str, reply: str | None, code: int | None = 550, enhanced: str | None = "5.1.1") -> Any:
    return SimpleNamespace(
        email=email, attempts=1, smtp_code=code, enhanced_code=enhanced, reply=reply, relay="mx.example:25"
    )


def test_the_same_refusal_of_many_addresses_is_one_group() -> None:
    groups = replies.group(
        [
            row("a@x.test", "<a@x.test>: User unknown (queue 4XyZ123)"),
            row("b@y.test", "<b@y.test>: user unknown (queue 9AbC456)"),
            row("c@x.test", "Mailbox full", 552, "5.2.2"),
        ]
    )
    assert [(group.count, group.code, group.text) for group in groups] == [
        (2, "550 5.1.1", "…: User unknown (queue …)"),
        (1, "552 5.2.2", "Mailbox full"),
    ]
    assert groups[0].meaning == "The mailbox or its domain does not exist."
    assert [one.email for one in groups[0].examples] == ["a@x.test", "b@y.test"]


def test_what_all_replies_share_is_kept() -> None:
    assert general("5.7.1 blocked, see RFC 5321 and policy 12") == "5.7.1 blocked, see RFC … and policy 12"


def test_missing_replies_form_one_group() -> None:
    (group,) = replies.group([row("a@x.test", None, None, None)])
    assert (group.code, group.text, group.meaning) == ("", "", "The relay gave no reply.")


def test_few_examples_of_many() -> None:
    (group,) = replies.group(row(f"a{number}@x.test", "no") for number in range(100))
    assert (group.count, len(group.examples)) == (100, replies.EXAMPLES)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)), max_size=200))
def test_a_sample_is_bounded_and_takes_each_batch_once(sizes: list[tuple[int, int]]) -> None:
    held = [(number, size, min(size, wanted)) for number, (size, wanted) in enumerate(sizes)]
    chosen = replies.spread(held)
    assert len(set(chosen)) == len(chosen)
    assert bool(chosen) == bool(held)
    assert sum(held[one][1] for one in chosen) <= max(replies.ROWS_READ, held[chosen[0]][1] if chosen else 0)
    if sum(size for _, size, _ in held) <= replies.ROWS_READ and sum(has for *_, has in held) <= replies.ROWS_GROUPED:
        assert sorted(chosen) == list(range(len(held)))


def test_a_sample_is_spread_over_the_campaign() -> None:
    chosen = sorted(replies.spread([(number, 500, 100) for number in range(1000)]))
    assert len(chosen) == 10
    assert chosen[0] < 250
    assert chosen[-1] > 750
