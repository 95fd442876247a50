"""Addresses are found in texts in every form that servers write, and no other address is taken for them."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.address_text import GONE, Mentions, without_address
from shared.addresses import Address, parse_address

LOCALS = st.from_regex(r"[a-z0-9+_=-]{1,10}(\.[a-z0-9+_=-]{1,10})?", fullmatch=True)
DOMAINS = st.from_regex(r"[a-z]{1,8}\.(example|test)", fullmatch=True)
AROUND = st.sampled_from(["<{}>", "{}", "550 5.1.1 {}: unknown", "({}),", "'{}'", "rfc822;{}", "to={}.", "[{}]\n"])


def mentions(written: str) -> Mentions:
    return Mentions(parse_address(written))


@given(LOCALS, DOMAINS, AROUND, st.booleans())
def test_every_form_is_taken_out(local: str, domain: str, around: str, in_capitals: bool) -> None:
    """As it is, as xtext, and as part of an envelope address; also in JSON."""
    xtext = local.replace("+", "+2B").replace("=", "+3D")
    for form in (f"{local}@{domain}", f"{xtext}@{domain}"):
        said = around.format(form.upper() if in_capitals else form)
        cleaned = mentions(f"{local}@{domain}").without(said)
        assert cleaned == around.format(GONE)
        stored = mentions(f"{local}@{domain}").without(orjson.dumps({"reply": said}).decode())
        assert orjson.loads(stored) == {"reply": around.format(GONE)}
    envelope = f"<bounce+{local}={domain}@relay.example.net>"
    assert mentions(f"{local}@{domain}").without(envelope) == f"<bounce+{GONE}@relay.example.net>"


@given(LOCALS, DOMAINS, st.from_regex("[a-z0-9_.-]", fullmatch=True))
def test_other_addresses_stay(local: str, domain: str, more: str) -> None:
    """Those that only contain it."""
    for other in (
        f"{more}{local}@{domain}",
        f"{local}@{domain}a",
        f"{local}@{domain}-a.test",
        f"{local}@{domain}.test",
    ):
        assert mentions(f"{local}@{domain}").without(f"<{other}>") == f"<{other}>"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ann@bücher.example", "no user ann@xn--bcher-kva.example"),
        ("ann@bücher.example", "no user Ann@Bücher.example"),
        ("ann@xn--bcher-kva.example", "no user ann@BÜCHER.example"),
        ("jürgen@example.com", "no user JÜRGEN@example.com"),
        (" Ann@EXAMPLE.com\u200b", "no user ann@example.com"),
    ],
)
def test_names_and_domains_in_other_scripts(written: str, said: str) -> None:
    assert mentions(written).without(said) == f"no user {GONE}"


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ann@Example.com", "ann@EXAMPLE.COM"), ("ann@bücher.example", "ANN@xn--bcher-kva.example")],
)
def test_forms_of_one_mailbox_have_one_key(one: str, other: str) -> None:
    """So an erasure finds the person, however the address is written."""
    assert parse_address(one).key == parse_address(other).key


def test_what_is_erased_already_has_no_address() -> None:
    assert without_address("550 no user", "") == "550 no user"
    assert Mentions(Address("ann@example.com", "ann@example.com")).without("") == ""
