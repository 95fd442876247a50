"""The dialogue without transport, clock or event loop: commands in, bytes and events out."""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.sender.smtp.dialogue import DOT, MAIL, QUIT, Dialogue, Event
from services.sender.smtp.replies import MAX_LINE_BYTES
from shared.relays.replies import Stage
from tests.support.smtp.model import Server

OK, GO, BYE = b"250 2.0.0 Ok\r\n", b"354 go\r\n", b"421 4.3.2 bye\r\n"
NO, LATER, LOST = b"550 5.1.1 no such user\r\n", b"450 4.3.0 not now\r\n", b"503 5.5.1 what?\r\n"
LETTERS = 6


def envelope(number: int = 0) -> bytes:
    return b"MAIL FROM:<news@example.org>\r\nRCPT TO:<person%d@example.net>\r\nDATA\r\n" % number


def body(number: int = 0) -> bytes:
    return b"To: person%d\r\n\r\nQUIT\r\n250 Ok\r\n..\r\n" % number


def sent(dialogue: Dialogue) -> bytes:
    return b"".join(dialogue.data_to_send())


def heard(dialogue: Dialogue, data: bytes) -> list[tuple[Event, Stage]]:
    return [(event, stage) for event, stage, _ in dialogue.receive_data(data)]


def begun(pipelining: bool = True) -> Dialogue:
    """A dialogue whose first envelope is out."""
    dialogue = Dialogue(pipelining)
    dialogue.begin(envelope())
    return dialogue


def body_out() -> Dialogue:
    """A dialogue whose first body and second envelope are out."""
    dialogue = begun()
    dialogue.receive_data(OK + OK + GO)
    dialogue.send_body(body())
    dialogue.begin(envelope(1))
    dialogue.data_to_send()
    return dialogue


def test_a_body_and_the_next_envelope_leave_together() -> None:
    dialogue = begun()
    assert sent(dialogue) == envelope()
    assert heard(dialogue, OK + OK + GO) == [("go ahead", Stage.DATA)]
    dialogue.send_body(body())
    assert dialogue.may_begin
    dialogue.begin(envelope(1))
    assert sent(dialogue) == body() + b".\r\n" + envelope(1)
    assert dialogue.awaiting is DOT
    assert heard(dialogue, OK + OK + OK + GO) == [("accepted", Stage.DOT), ("go ahead", Stage.DATA)]


def test_without_pipelining_each_command_waits_for_the_reply_before_it() -> None:
    dialogue = begun(pipelining=False)
    lines = envelope().splitlines(keepends=True)
    assert sent(dialogue) == lines[0]
    for line in lines[1:]:
        assert not dialogue.command_due
        assert heard(dialogue, OK) == []
        assert dialogue.command_due
        dialogue.ask()
        assert sent(dialogue) == line
    assert heard(dialogue, GO) == [("go ahead", Stage.DATA)]
    dialogue.send_body(body())
    assert not dialogue.may_begin
    assert heard(dialogue, OK) == [("accepted", Stage.DOT)]
    assert dialogue.may_begin


@pytest.mark.parametrize(("replies", "stage"), [(NO, Stage.MAIL), (OK + NO, Stage.RCPT), (OK + OK + NO, Stage.DATA)])
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_refused_envelope_is_followed_by_rset(replies: bytes, stage: Stage, pipelining: bool) -> None:
    dialogue = begun(pipelining)
    happened = []
    for reply in replies.splitlines(keepends=True):
        happened += heard(dialogue, reply)
        if dialogue.command_due:
            dialogue.ask()
    assert happened == [("refused", stage)]
    while pipelining and not dialogue.idle:  # the rest of the envelope was said already
        assert heard(dialogue, LOST) == []
    assert (dialogue.idle, dialogue.may_begin, dialogue.command_due) == (True, True, False)
    dialogue.data_to_send()
    dialogue.begin(envelope(1))
    assert sent(dialogue) == b"RSET\r\n" + (envelope(1) if pipelining else b"")


def test_354_after_a_refused_recipient_gets_a_lone_dot() -> None:
    dialogue = begun()
    dialogue.data_to_send()
    assert heard(dialogue, OK + LATER + GO) == [("refused", Stage.RCPT)]
    assert (sent(dialogue), dialogue.body_due, dialogue.may_begin) == (b".\r\n", False, False)
    assert heard(dialogue, NO) == []
    assert dialogue.may_begin


@pytest.mark.parametrize(
    "replies",
    [
        GO,  # at MAIL
        OK + GO,  # at RCPT
        OK + OK + OK,  # at DATA
        OK + OK + b"334 go\r\n",
        NO + OK,  # a recipient for a refused sender
        OK + NO + OK,  # a body accepted without a recipient
        OK + OK + GO + OK,  # before the body
        b"220 again\r\n" + OK + OK + GO,
        b"hello\r\n",
        b"25\r\n",
        b"250-more\r\n550 no\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_what_cannot_follow_breaks_the_dialogue(replies: bytes) -> None:
    dialogue = begun()
    assert "broken" in [event for event, _ in heard(dialogue, replies)]
    assert (dialogue.ended, dialogue.may_write) == (True, False)
    assert heard(dialogue, OK) == []


def test_354_to_a_body_breaks_the_dialogue() -> None:
    assert [event for event, _ in heard(body_out(), GO)] == ["broken"]


def test_a_body_leaves_only_after_354() -> None:
    dialogue = begun()
    dialogue.receive_data(OK + OK)
    with pytest.raises(RuntimeError, match="354"):
        dialogue.send_body(body())


@pytest.mark.parametrize(("replies", "stage"), [(BYE, Stage.MAIL), (OK + BYE, Stage.RCPT), (OK + OK + BYE, Stage.DATA)])
def test_421_refuses_the_envelope_it_answers(replies: bytes, stage: Stage) -> None:
    assert heard(begun(), replies) == [("refused", stage), ("closing", stage)]


def test_421_at_the_dot_refuses_the_body_and_not_the_next_envelope() -> None:
    assert heard(body_out(), BYE) == [("refused", Stage.DOT), ("closing", Stage.DOT)]


def test_421_between_emails_refuses_nothing() -> None:
    assert heard(body_out(), OK + BYE) == [("accepted", Stage.DOT), ("closing", Stage.MAIL)]
    assert [event for event, _ in heard(Dialogue(True), BYE)] == ["closing"]


def test_a_reply_to_nothing_is_no_reply_to_the_next_command() -> None:
    dialogue = Dialogue(True)
    assert heard(dialogue, b"42") == []
    assert (dialogue.may_write, dialogue.idle) == (False, False)
    assert heard(dialogue, b"1 4.4.2 idle for too long\r\n") == [("closing", Stage.DOT)]
    assert [event for event, _ in heard(Dialogue(True), OK)] == ["broken"]


def test_a_late_reply_finds_its_step() -> None:
    dialogue = body_out()
    assert heard(dialogue, OK) == [("accepted", Stage.DOT)]
    assert dialogue.awaiting is MAIL
    assert dialogue.replies == 4


def test_rset_cannot_be_refused() -> None:
    dialogue = begun()
    dialogue.receive_data(OK + NO + LOST)
    dialogue.begin(envelope(1))
    assert [event for event, _ in heard(dialogue, LOST)] == ["broken"]


@pytest.mark.parametrize("reply", [b"221 bye\r\n", NO, BYE])
def test_any_answer_to_quit_closes(reply: bytes) -> None:
    dialogue = Dialogue(True)
    dialogue.quit()
    assert (sent(dialogue), dialogue.awaiting) == (b"QUIT\r\n", QUIT)
    assert heard(dialogue, reply) == [("closing", Stage.DOT)]


@dataclass
class Client:
    """Sends letter after letter, as early as the dialogue allows, and keeps the outcome of each."""

    dialogue: Dialogue
    left: list[int] = field(default_factory=lambda: list(range(LETTERS)))
    sent: int | None = None  # its body is out
    open: int | None = None  # its envelope is out
    told: dict[int, tuple[Event, Stage]] = field(default_factory=dict)

    def hear(self, data: bytes) -> None:
        for event, stage, _ in self.dialogue.receive_data(data):
            if event == "accepted" or (event == "refused" and stage is Stage.DOT):
                assert self.sent is not None
                self.told[self.sent], self.sent = (event, stage), None
            elif event == "refused":
                assert self.open is not None
                self.told[self.open], self.open = (event, stage), None

    def say(self) -> bytes:
        if self.dialogue.may_write:
            if self.dialogue.body_due:
                assert self.open is not None
                self.dialogue.send_body(body(self.open))
                self.sent, self.open = self.open, None
            if self.dialogue.command_due:
                self.dialogue.ask()
            elif self.dialogue.may_begin and self.left:
                self.open = self.left.pop(0)
                self.dialogue.begin(envelope(self.open))
        return b"".join(self.dialogue.data_to_send())


@given(
    mood=st.lists(st.integers(0, 9), max_size=60),
    cuts=st.lists(st.integers(1, 60), max_size=60),
    pipelining=st.booleans(),
)
@example(mood=[0, 1, 0] * 10, cuts=[1] * 60, pipelining=True)
def test_wherever_the_bytes_are_cut_each_email_ends_as_the_server_says(
    mood: list[int], cuts: list[int], pipelining: bool
) -> None:
    server, client = Server(mood), Client(Dialogue(pipelining))
    on_the_way = server.hear(client.say())
    while on_the_way:
        size = cuts.pop(0) if cuts else 1000
        client.hear(on_the_way[:size])
        on_the_way = on_the_way[size:] + server.hear(client.say())
    assert set(client.told) == set(range(LETTERS))
    for number, (event, stage) in client.told.items():
        recipient = f"person{number}@example.net"
        assert (event == "accepted") == (recipient in server.stored)
        assert stage == server.said.get(recipient, (Stage.MAIL, 550))[0]
        assert server.stored.get(recipient, body(number)) == body(number)


@given(chunks=st.lists(st.binary(max_size=30) | st.sampled_from([OK, GO, BYE, NO, LATER]), max_size=40))
def test_any_bytes_end_the_dialogue_at_most_once(chunks: list[bytes]) -> None:
    dialogue, ends = begun(), 0
    for chunk in chunks:
        happened = dialogue.receive_data(chunk)
        assert not (ends and happened)
        ends += sum(event in ("closing", "broken") for event, _, _ in happened)
        assert ends == dialogue.ended
        if dialogue.may_write and dialogue.body_due:
            dialogue.send_body(body())
        elif dialogue.may_write and dialogue.may_begin:
            dialogue.begin(envelope())
