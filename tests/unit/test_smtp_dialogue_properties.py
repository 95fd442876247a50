"""One connection: whatever a server says and wherever its bytes are cut, each email has one outcome, the right one."""

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.relays.replies import Stage
from tests.support.smtp.mail import Letter
from tests.support.smtp.model import Server
from tests.support.smtp.wire import FakeOwner, FakeTransport, wired

EMAILS = 6
LINE = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"250 Ok\r\n", b"354 go\r\n", b"421 bye\r\n", b"550 5.1.1 no\r\n", b"450 later\r\n", b"250-more\r\n"]
    ),
)


def unlike_letters() -> list[Letter]:
    """Each body names its recipient, and looks like SMTP."""
    return [
        Letter(f"person{number}@example.net", b"To: person%d\r\n\r\nQUIT\r\n250 Ok\r\n..\r\n" % number)
        for number in range(EMAILS)
    ]


@given(
    mood=st.lists(st.integers(0, 9), max_size=60),
    cuts=st.lists(st.integers(1, 60), max_size=60),
    pipelining=st.booleans(),
    dies_after=st.none() | st.integers(0, 300),
)
@settings(deadline=None)
@example(mood=[0, 1, 0] * 10, cuts=[1] * 60, pipelining=True, dies_after=None)
def test_what_is_reported_is_what_the_server_did(
    mood: list[int], cuts: list[int], pipelining: bool, dies_after: int | None
) -> None:
    async def talk() -> tuple[Server, FakeOwner, FakeTransport]:
        server = Server(mood)
        connection, transport, owner = wired(unlike_letters(), pipelining=pipelining)
        on_the_way, heard = b"", 0
        while not transport.aborted:
            on_the_way += server.hear(transport.read())
            if not on_the_way:
                break
            size = cuts.pop(0) if cuts else 1000
            chunk, on_the_way = on_the_way[:size], on_the_way[size:]
            heard += len(chunk)
            connection.data_received(chunk)
            if dies_after is not None and heard > dies_after:
                connection.connection_lost(None)
        assert owner.is_closed or connection.in_flight == 0
        return server, owner, transport

    server, owner, _ = asyncio.run(talk())
    assert owner.told
    assert set(owner.told) == set(owner.given)
    bodies = {letter.rcpt_to: letter.content for letter in unlike_letters()}
    for recipient, body in server.stored.items():
        assert body == bodies[recipient]
    for recipient, (what, stage, reply) in owner.told.items():
        if what in ("accepted", "refused"):
            assert reply is not None
            assert (stage, reply.code) == server.said.get(recipient, (Stage.MAIL, 550))
            assert (what == "accepted") == (recipient in server.stored)
        elif what != "ambiguous":
            assert recipient not in server.stored
    if dies_after is None:
        assert {what for what, _, _ in owner.told.values()} <= {"accepted", "refused"}
        assert len(owner.told) == EMAILS
    assert sum(what == "ambiguous" for what, _, _ in owner.told.values()) <= 1


@given(chunks=st.lists(LINE, max_size=40), pipelining=st.booleans())
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_end_in_one_outcome_per_email(chunks: list[bytes], pipelining: bool) -> None:
    async def talk() -> tuple[FakeOwner, FakeTransport]:
        connection, transport, owner = wired(unlike_letters(), pipelining=pipelining)
        for chunk in chunks:
            connection.data_received(chunk)
        connection.connection_lost(None)
        return owner, transport

    owner, transport = asyncio.run(talk())
    assert set(owner.told) == set(owner.given)
    assert (owner.is_closed, transport.aborted) == (True, True)
