"""Unsubscribe tokens: who holds no secret can neither make nor change one."""

import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.signing import TokenError
from shared.unsubscribe import make_token, read_token

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"another secret, another secret, a"


@given(st.uuids(), st.integers(min_value=0, max_value=2**63 - 1))
def test_a_token_names_its_recipient(campaign_id: UUID, recipient_id: int) -> None:
    token = make_token(SECRET, campaign_id, recipient_id)
    assert re.fullmatch("[A-Za-z0-9_-]{56}", token)
    assert read_token([SECRET], token) == (campaign_id, recipient_id)


def test_secrets_are_rotated() -> None:
    campaign_id = uuid4()
    token = make_token(SECRET, campaign_id, 5)
    assert read_token([OTHER, SECRET], token) == (campaign_id, 5)
    with pytest.raises(TokenError):
        read_token([OTHER], token)
    with pytest.raises(TokenError):
        read_token([], token)


def test_no_changed_token_is_read() -> None:
    token = make_token(SECRET, uuid4(), 5)
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(TokenError):
            read_token([SECRET], changed)


@given(st.text(max_size=80) | st.from_regex("[A-Za-z0-9_-]{56}", fullmatch=True))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        read_token([SECRET], text)
