"""What mail servers note about who brought an email."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.deliverability.arrival import Arrived, judge, last_hop
from shared.deliverability.dns import Dns

NOTES = {
    "Postfix": (
        "from out.example (ptr.example [192.0.2.5])\r\n\tby mx.example (Postfix) with ESMTP id 4A;",
        "out.example",
    ),
    "Postfix without PTR": ("from out.example (unknown [192.0.2.5])\r\n\tby mx.example", "out.example"),
    "Exim": ("from ptr.example ([192.0.2.5] helo=out.example)\r\n\tby mx.example with esmtp", "out.example"),
    "Exim without PTR": ("from [192.0.2.5] (helo=out.example)\r\n\tby mx.example with esmtp", "out.example"),
    "Exim, PTR is HELO": ("from out.example ([192.0.2.5])\r\n\tby mx.example with esmtp", "out.example"),
    "Sendmail": ("from out.example (ptr.example [192.0.2.5] (may be forged))\r\n\tby mx.example", "out.example"),
    "OpenSMTPD": ("from out.example (out.example [192.0.2.5])\r\n\tby mx (OpenSMTPD) with ESMTPS id 1;", "out.example"),
}


@pytest.mark.parametrize("server", NOTES)
def test_the_first_received_header_names_address_and_helo(server: str) -> None:
    note, helo = NOTES[server]
    message = (
        f"Return-Path: <x@example>\r\nReceived: {note}\r\n"
        "Received: from inside (inside [10.0.0.1]) by out.example\r\nFrom: a@example\r\n\r\nx"
    )
    address, said = last_hop(message.encode())
    assert (str(address), said) == ("192.0.2.5", helo)


def test_an_ipv6_address_is_read() -> None:
    address, _ = last_hop(b"Received: from a.example (a.example [IPv6:2001:db8::5]) by mx\r\n\r\n")
    assert str(address) == "2001:db8::5"


@pytest.mark.parametrize(
    "head", ["", "Received: by mx; now", "Received: from x by mx", "Received: from x (y [a.b]) by"]
)
def test_without_a_note_the_address_is_not_known(head: str) -> None:
    assert last_hop(f"{head}\r\n\r\nx".encode())[0] is None


class NoDns(Dns):
    """Knows nothing."""

    def __init__(self) -> None:
        super().__init__("192.0.2.1")

    async def _ask(self, name: str, kind: str) -> Any:
        return ()


pieces = st.sampled_from(
    [
        b"Received:",
        b"DKIM-Signature:",
        b"From:",
        b" from",
        b"d=example.com;",
        b"s=a;",
        b"b=x; bh=",
        b"\r\n",
        b"\n",
        b"\0",
        b"v=1; a=rsa-sha256;",
    ]
)


@given(st.lists(pieces | st.binary(max_size=30), max_size=20).map(b"".join), st.text(max_size=50), st.text(max_size=50))
def test_any_email_is_judged(message: bytes, helo: str, sender: str) -> None:
    address, _ = last_hop(message)
    with asyncio.Runner() as runner:
        findings = runner.run(judge(NoDns(), Arrived(address, helo, sender, message), "probe@example.com"))
    assert {"outside address", "envelope sender", "DMARC"} <= {finding.name for finding in findings}
