"""Sign-in links, sessions and form tokens: only a holder of the secret can make or change one."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.page import csrf
from services.api.page.csrf import ForgedError
from services.api.page.sign_in import _local
from shared.sign_in import Purpose, make_token, read_token
from shared.signing import TokenError

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"another secret, another secret, a"


@given(st.uuids(), st.integers(min_value=0, max_value=2**40), st.sampled_from(Purpose))
def test_a_token_carries_its_key_and_expiry(key_id: UUID, until: int, purpose: Purpose) -> None:
    said = read_token([SECRET], purpose, make_token(SECRET, purpose, key_id, until))
    assert (said.key_id, said.until) == (key_id, until)


def test_no_two_tokens_are_alike() -> None:
    key_id = uuid4()
    first, second = (make_token(SECRET, Purpose.LINK, key_id, 5) for _ in range(2))
    assert first != second
    assert read_token([SECRET], Purpose.LINK, first).nonce != read_token([SECRET], Purpose.LINK, second).nonce


def test_a_link_is_no_session() -> None:
    with pytest.raises(TokenError):
        read_token([SECRET], Purpose.SESSION, make_token(SECRET, Purpose.LINK, uuid4(), 5))


def test_secrets_are_rotated() -> None:
    token = make_token(SECRET, Purpose.SESSION, uuid4(), 5)
    read_token([OTHER, SECRET], Purpose.SESSION, token)
    with pytest.raises(TokenError):
        read_token([OTHER], Purpose.SESSION, token)


@given(st.integers(0, 71), st.sampled_from("ABab01-_"))
def test_a_changed_token_is_refused(position: int, character: str) -> None:
    token = make_token(SECRET, Purpose.LINK, UUID(int=7), 5)
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        with pytest.raises(TokenError):
            read_token([SECRET], Purpose.LINK, changed)


@pytest.mark.parametrize("token", ["", "x", "x" * 72 + "x", "ä" * 72, "=" * 72])
def test_nonsense_is_refused(token: str) -> None:
    with pytest.raises(TokenError):
        read_token([SECRET], Purpose.LINK, token)


def test_a_form_belongs_to_its_session() -> None:
    token = csrf.token(SECRET, "a session")
    csrf.check([OTHER, SECRET], "a session", token)
    for bound_to, given_token in (("another session", token), ("a session", ""), ("a session", "ü"), ("", token)):
        with pytest.raises(ForgedError):
            csrf.check([SECRET], bound_to, given_token)


@pytest.mark.parametrize("path", ["/", "/campaigns/018f?status=failed&cursor=5", "/?show=closed", "/u/a%20b"])
def test_a_sign_in_leads_to_a_path_of_the_page(path: str) -> None:
    assert _local(path) == path


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/\r\nSet-Cookie: a=b", "/@evil:"]
)
def test_a_sign_in_never_leads_to_another_site(path: str) -> None:
    assert _local(path) == "/"
