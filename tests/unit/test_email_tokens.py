"""Tokens of emails: who holds no secret can neither make nor change one, and a token shows no id."""

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from shared.email_tokens import TOKEN, TokenMaker, is_genuine, named_by
from shared.unsubscribe import make_token, read_token

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"another secret, another secret, a"
CAMPAIGN = UUID("018f0000-0000-7000-8000-000000000001")

ids = st.integers(min_value=1, max_value=2**63 - 1)


@given(st.uuids(), ids)
def test_a_token_names_its_recipient(campaign_id: UUID, recipient_id: int) -> None:
    tokens = TokenMaker(SECRET, campaign_id).make(recipient_id)
    assert TOKEN.fullmatch(tokens.mail)
    [named] = named_by([SECRET], tokens.mail.upper())
    assert named.recipient_id == recipient_id
    assert is_genuine(named, campaign_id)
    assert not is_genuine(named, uuid4())


@given(st.uuids(), ids)
def test_the_link_is_that_of_release_0_1_0(campaign_id: UUID, recipient_id: int) -> None:
    link = TokenMaker(SECRET, campaign_id).make(recipient_id).link
    assert link == make_token(SECRET, campaign_id, recipient_id)
    assert read_token([SECRET], link) == (campaign_id, recipient_id)


def test_secrets_are_rotated() -> None:
    token = TokenMaker(SECRET, CAMPAIGN).make(5).mail
    named = [one for one in named_by([OTHER, SECRET], token) if is_genuine(one, CAMPAIGN)]
    assert [one.recipient_id for one in named] == [5]
    assert not any(is_genuine(one, CAMPAIGN) for one in named_by([OTHER], token))


def test_no_changed_token_is_genuine() -> None:
    token = TokenMaker(SECRET, CAMPAIGN).make(5).mail
    for place in range(len(token)):
        changed = token[:place] + ("a" if token[place] != "a" else "b") + token[place + 1 :]
        assert not any(is_genuine(one, CAMPAIGN) for one in named_by([SECRET], changed))


def test_tokens_of_neighbours_have_nothing_in_common() -> None:
    maker = TokenMaker(SECRET, CAMPAIGN)
    first, second = maker.make(5).mail, maker.make(6).mail
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 10
    assert first == maker.make(5).mail


@given(
    st.text(max_size=40)
    | st.from_regex("[a-z2-7]{32}", fullmatch=True)
    | st.text("sk\u017f\u212a2", min_size=32, max_size=32)
)
def test_any_other_text_names_no_one(text: str) -> None:
    assert not any(is_genuine(one, CAMPAIGN) for one in named_by([SECRET], text))
