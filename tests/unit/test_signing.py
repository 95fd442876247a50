"""Signed tokens: only a secret of ours makes one, and only for one purpose."""

from base64 import urlsafe_b64encode
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import ApiSettings, SenderSettings, load
from shared.sign_in import Purpose
from shared.sign_in import make_token as make_session
from shared.sign_in import read_token as read_session
from shared.signing import TokenError, Use, derived_key, mac, make_token, read_token
from shared.unsubscribe import make_token as make_unsubscribe
from shared.unsubscribe import read_token as read_unsubscribe

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"another secret, another secret, a"
NEWER = "n" * 40
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


def test_derived_keys_never_change() -> None:
    """Links in emails of years ago were signed with them. HKDF computed by hand: RFC 5869, section 2."""
    extracted = mac(b"\0" * 32, b"", SECRET)
    expanded = mac(extracted, b"", b"vashsender key 1: unsubscribe link\x01")
    assert derived_key(SECRET, Use.UNSUBSCRIBE) == urlsafe_b64encode(expanded).rstrip(b"=")
    assert derived_key(SECRET, Use.UNSUBSCRIBE) == b"cjfX33zwwf00FTOoSt19Tl6yfHA-9oTCVE5qtElZN_w"
    assert len({derived_key(SECRET, use) for use in Use}) == len(Use)


def test_a_senders_key_signs_unsubscribe_links_and_nothing_else() -> None:
    api = load(ApiSettings, secret_key=SECRET.decode())
    sender = load(SenderSettings, unsubscribe_key=derived_key(SECRET, Use.UNSUBSCRIBE).decode())
    key, campaign_id = sender.unsubscribe_signing_key, uuid4()
    token = make_unsubscribe(key, campaign_id, 5)
    assert read_unsubscribe(api.signing_keys(Use.UNSUBSCRIBE), token) == (campaign_id, 5)
    for purpose, use in ((Purpose.SESSION, Use.SESSION), (Purpose.LINK, Use.SIGN_IN)):
        with pytest.raises(TokenError):
            read_session(api.signing_keys(use), purpose, make_session(key, purpose, uuid4(), 5))
    assert key not in {*api.signing_keys(Use.SESSION), *api.signing_keys(Use.SIGN_IN), *api.signing_keys(Use.FORM)}


def test_the_secret_itself_signs_only_what_0_1_0_left_in_emails() -> None:
    api = load(ApiSettings, secret_key=f"{NEWER},{SECRET.decode()}")
    campaign_id = uuid4()
    assert read_unsubscribe(api.signing_keys(Use.UNSUBSCRIBE), make_unsubscribe(SECRET, campaign_id, 5))
    with pytest.raises(TokenError):
        read_session(api.signing_keys(Use.SESSION), Purpose.SESSION, make_session(SECRET, Purpose.SESSION, uuid4(), 5))


def test_0_1_0_accepts_links_of_this_release() -> None:
    """It verifies with the keys of its list as they are."""
    campaign_id, secret = uuid4(), SECRET.decode()
    with_old_settings = load(SenderSettings, secret_key=secret).unsubscribe_signing_key
    assert read_unsubscribe([SECRET], make_unsubscribe(with_old_settings, campaign_id, 5))
    derived = derived_key(SECRET, Use.UNSUBSCRIBE).decode()
    token = make_unsubscribe(load(SenderSettings, unsubscribe_key=derived).unsubscribe_signing_key, campaign_id, 5)
    listed = [key.strip().encode() for key in f"{secret},{derived}".split(",")]
    assert read_unsubscribe(listed, token) == (campaign_id, 5)


def test_a_rotated_secret_reads_what_the_old_derived_key_signed() -> None:
    old = make_unsubscribe(derived_key(SECRET, Use.UNSUBSCRIBE), uuid4(), 5)
    both, new = (load(ApiSettings, secret_key=keys) for keys in (f"{NEWER},{SECRET.decode()}", NEWER))
    assert read_unsubscribe(both.signing_keys(Use.UNSUBSCRIBE), old)
    with pytest.raises(TokenError):
        read_unsubscribe(new.signing_keys(Use.UNSUBSCRIBE), old)
