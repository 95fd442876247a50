"""Signed tokens: only a secret of ours makes one, and only for one purpose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.signing import TokenError, mac, make_token, read_token

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"another secret, another secret, a"
PURPOSE = b"test 1\0"
PAYLOAD = b"eighteen octets, x"


@given(st.integers(0, 20).flatmap(lambda thirds: st.binary(min_size=3 * thirds, max_size=3 * thirds)))
def test_a_token_carries_its_payload(payload: bytes) -> None:
    token = make_token(SECRET, PURPOSE, payload)
    assert read_token([OTHER, SECRET], PURPOSE, token, len(payload)) == payload
    assert len(token) == len(payload) // 3 * 4 + 24


def test_another_secret_purpose_or_length_is_refused() -> None:
    token = make_token(SECRET, PURPOSE, PAYLOAD)
    for secrets, purpose, octets in (
        ([OTHER], PURPOSE, len(PAYLOAD)),
        ([], PURPOSE, len(PAYLOAD)),
        ([SECRET], b"test 2\0", len(PAYLOAD)),
        ([SECRET], PURPOSE, len(PAYLOAD) - 3),
    ):
        with pytest.raises(TokenError):
            read_token(secrets, purpose, token, octets)


@pytest.mark.parametrize("change", [lambda token: token + "=", lambda token: token + "A", lambda token: f" {token}"])
def test_a_token_has_one_spelling(change: object) -> None:
    assert callable(change)
    with pytest.raises(TokenError):
        read_token([SECRET], PURPOSE, change(make_token(SECRET, PURPOSE, PAYLOAD)), len(PAYLOAD))


def test_each_purpose_has_its_own_mac() -> None:
    assert mac(SECRET, b"a\0", b"b") != mac(SECRET, b"ab\0", b"")
