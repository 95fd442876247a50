"""DMARC records, the tree walk and alignment (RFC 9989). No DNS: answers come from a table."""

import pytest

from shared.deliverability.dmarc import discover, is_aligned, walked
from shared.deliverability.dns import Dns


class Zone(Dns):
    """TXT records at `_dmarc.` and a name."""

    def __init__(self, **records: str | list[str]) -> None:
        self._texts = {
            name.replace("_", "."): [text] if isinstance(text, str) else text for name, text in records.items()
        }

    async def txt(self, name: str) -> list[str]:
        return self._texts.get(name.removeprefix("_dmarc."), [])


def test_a_walk_asks_at_most_eight_names() -> None:
    assert walked("mail.example.com") == ["mail.example.com", "example.com", "com"]
    assert walked("example.com") == ["example.com", "com"]
    long = walked("a.b.c.d.e.f.g.h.i.j.mail.example.com")
    assert long[:3] == ["a.b.c.d.e.f.g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "h.i.j.mail.example.com"]
    assert (len(long), long[-1]) == (8, "com")
    assert len(walked("a.b.c.d.e.f.g.com")) == 8


SHOP = "v=DMARC1; p=quarantine"
NONE = "v=DMARC1; p=none"
REJECT = "v=DMARC1; p=reject"
BOTH = "v=DMARC1; p=reject; sp=quarantine"
WALKS: list[tuple[dict[str, str | list[str]], str, str, str]] = [
    ({"example_com": BOTH}, "example.com", "example.com", "reject"),
    ({"example_com": BOTH}, "a.b.example.com", "example.com", "quarantine"),
    ({"example_com": REJECT}, "a.example.com", "example.com", "reject"),
    # The record with the fewest labels is the organization's; the domain's own policy still holds.
    ({"example_com": NONE, "a_example_com": REJECT}, "a.example.com", "example.com", "reject"),
    # psd=n ends the walk.
    ({"example_com": NONE, "a_example_com": f"{REJECT}; psd=n"}, "b.a.example.com", "a.example.com", "reject"),
    # psd=y is a public suffix: the organization is one label below.
    ({"co_example": f"{REJECT}; psd=y"}, "mail.shop.co.example", "shop.co.example", "reject"),
    ({"co_example": f"{REJECT}; psd=y"}, "co.example", "co.example", "reject"),
    ({"co_example": f"{NONE}; psd=y", "shop_co_example": SHOP}, "a.shop.co.example", "shop.co.example", "quarantine"),
    ({}, "mail.example.com", "mail.example.com", ""),
    ({"example_com": [NONE, REJECT]}, "example.com", "example.com", ""),
    ({"example_com": ["google-site-verification=x", "v=DMARC1;p=reject"]}, "example.com", "example.com", "reject"),
    ({"example_com": "v=DMARC1; p=nonsense; rua=mailto:a@example.com"}, "example.com", "example.com", "none"),
    ({"example_com": "p=reject; v=DMARC1"}, "example.com", "example.com", ""),
    ({"example_com": "v=DMARC10; p=reject"}, "example.com", "example.com", ""),
]


@pytest.mark.parametrize(("records", "domain", "organizational", "policy"), WALKS)
async def test_the_tree_walk(
    records: dict[str, str | list[str]], domain: str, organizational: str, policy: str
) -> None:
    found = await discover(Zone(**records), domain)
    assert (found.organizational, found.policy) == (organizational, policy)


async def test_alignment_is_relaxed_unless_the_record_is_strict() -> None:
    zone = Zone(example_com="v=DMARC1; p=reject; aspf=s", other_com="v=DMARC1; p=none")
    author = await discover(zone, "news.example.com")
    assert author.record is not None
    assert (author.record.strict_spf, author.record.strict_dkim) == (True, False)
    assert await is_aligned(zone, author, "bounce.example.com", strict=False)
    assert not await is_aligned(zone, author, "bounce.example.com", strict=True)
    assert await is_aligned(zone, author, "News.Example.com.", strict=True)
    for stranger in ("other.com", "notexample.com", "com", "example.com.other.com"):
        assert not await is_aligned(zone, author, stranger, strict=False), stranger


async def test_two_sites_below_a_public_suffix_are_not_aligned() -> None:
    zone = Zone(hosting_example="v=DMARC1; p=none; psd=y")
    author = await discover(zone, "one.hosting.example")
    assert await is_aligned(zone, author, "mail.one.hosting.example", strict=False)
    assert not await is_aligned(zone, author, "two.hosting.example", strict=False)
