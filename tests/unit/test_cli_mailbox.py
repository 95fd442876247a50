"""The development mailbox's dialogue, command by command, without a socket."""

import asyncio
from collections.abc import AsyncIterator
from email import message_from_bytes
from pathlib import Path

import pytest

from cli.mailbox.maildir import Maildir
from cli.mailbox.smtp import Mailbox, SmtpConnection

HELLO = b"EHLO client.test\r\n"
LETTER = b"MAIL FROM:<news@example.com>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\n"


class Wire(asyncio.Transport):
    """Records what the client would see."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Dialogue:
    """One connection to a mailbox; `say` returns the reply codes that come back."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.wire = Wire()
        self.connection = SmtpConnection(mailbox)
        self.connection.connection_made(self.wire)
        self.wire.writes.clear()

    def say(self, data: bytes) -> list[int]:
        self.wire.writes.clear()
        self.connection.data_received(data)
        lines = b"".join(self.wire.writes).decode().splitlines()
        return [int(line[:3]) for line in lines if line[3:4] != "-"]


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(tmp_path / "mailbox")


@pytest.fixture
async def dialogue(maildir: Maildir) -> AsyncIterator[Dialogue]:
    dialogue = Dialogue(Mailbox(maildir))
    yield dialogue
    dialogue.connection.connection_lost(None)


async def test_an_email_is_kept_with_its_envelope(dialogue: Dialogue, maildir: Maildir) -> None:
    assert dialogue.say(HELLO) == [250]
    assert dialogue.say(LETTER) == [250, 250, 354]
    assert dialogue.say(b"Subject: Hello\r\n\r\nDear Ann\r\n.\r\n") == [250]
    [key] = maildir.keys()
    email = message_from_bytes(maildir.read(key))
    assert email["Return-Path"] == "<news@example.com>"
    assert email["Delivered-To"] == "ann@example.com"
    assert email["Subject"] == "Hello"
    assert email.get_payload() == "Dear Ann\r\n"


async def test_a_pipelined_group_is_answered_in_one_write(dialogue: Dialogue, maildir: Maildir) -> None:
    dialogue.say(HELLO)
    dialogue.say(LETTER)
    assert dialogue.say(b"Subject: 1\r\n\r\nOne\r\n.\r\n" + LETTER) == [250, 250, 250, 354]
    assert len(dialogue.wire.writes) == 1
    assert dialogue.say(b"Subject: 2\r\n\r\nTwo\r\n.\r\nQUIT\r\n") == [250, 221]
    assert dialogue.wire.closed
    assert len(maildir.keys()) == 2


async def test_an_email_may_come_in_single_octets(dialogue: Dialogue, maildir: Maildir) -> None:
    dialogue.say(HELLO)
    for octet in LETTER + b"A: b\r\n\r\n..dot\r\n...\r\n.\r\n":
        dialogue.say(bytes([octet]))
    [key] = maildir.keys()
    assert maildir.read(key).endswith(b"A: b\r\n\r\n.dot\r\n..\r\n")


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),  # only CRLF . CRLF ends a body (RFC 5321, 4.1.1.4)
    ],
)
async def test_only_crlf_dot_crlf_ends_a_body(dialogue: Dialogue, maildir: Maildir, body: bytes, kept: bytes) -> None:
    dialogue.say(HELLO + LETTER)
    assert dialogue.say(body + b"NOOP\r\n") == [250, 250]
    [key] = maildir.keys()
    email = maildir.read(key)
    assert email[email.index(b"Received:") :].partition(b"\r\n")[2] == kept


async def test_refused_addresses_are_refused_every_time(dialogue: Dialogue) -> None:
    dialogue.say(HELLO + b"MAIL FROM:<news@example.com>\r\n")
    for _ in range(2):
        assert dialogue.say(b"RCPT TO:<Refused.ann@example.com>\r\n") == [550]
    assert b"5.1.1" in dialogue.wire.writes[0]
    assert dialogue.say(b"DATA\r\n") == [503]


async def test_deferred_addresses_are_deferred_once(dialogue: Dialogue) -> None:
    dialogue.say(HELLO + b"MAIL FROM:<news@example.com>\r\n")
    assert dialogue.say(b"RCPT TO:<deferred.ann@example.com>\r\n") == [451]
    assert dialogue.say(b"RCPT TO:<deferred.ben@example.com>\r\n") == [451]
    assert dialogue.say(b"RCPT TO:<deferred.ann@example.com>\r\n") == [250]


async def test_the_next_campaign_defers_the_same_address_again(dialogue: Dialogue) -> None:
    dialogue.say(HELLO + b"MAIL FROM:<news@example.com>\r\n")
    codes = [dialogue.say(b"RCPT TO:<deferred.ann@example.com>\r\n")[0] for _ in range(4)]
    assert codes == [451, 250, 451, 250]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"MAIL FROM:<a@b.c>\r\n", 503),
        (b"RCPT TO:<a@b.c>\r\n", 503),
        (b"DATA\r\n", 503),
        (b"STARTTLS\r\n", 500),
        (b"GET / HTTP/1.1\r\n", 500),
        (b"EHLO\r\n", 501),
        (b"VRFY ann\r\n", 252),
        (b"RSET\r\n", 250),
    ],
)
async def test_commands_out_of_sequence_are_refused(dialogue: Dialogue, line: bytes, code: int) -> None:
    assert dialogue.say(line) == [code]


async def test_malformed_envelopes_are_refused(dialogue: Dialogue) -> None:
    dialogue.say(HELLO)
    assert dialogue.say(b"MAIL FROM:news@example.com\r\n") == [501]
    assert dialogue.say(b"MAIL FROM:<>\r\n") == [250]
    assert dialogue.say(b"RCPT TO:<nobody>\r\n") == [501]


async def test_an_endless_line_ends_the_dialogue(dialogue: Dialogue) -> None:
    assert dialogue.say(b"A" * 5000) == [500]
    assert dialogue.wire.closed


async def test_a_full_disk_is_reported_and_survived(
    dialogue: Dialogue, maildir: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_parts: bytes) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maildir, "store", full)
    dialogue.say(HELLO + LETTER)
    assert dialogue.say(b"A: b\r\n\r\n.\r\n") == [452]
    monkeypatch.undo()
    assert dialogue.say(LETTER + b"A: b\r\n\r\n.\r\n") == [250, 250, 354, 250]


def test_keys_are_only_names_in_the_folder(maildir: Maildir) -> None:
    key = maildir.store(b"A: b\r\n\r\n")
    for wrong in ("../../etc/passwd", f"../tmp/{key}", "", f"{key}x/..", "no-such-key"):
        with pytest.raises(KeyError):
            maildir.read(wrong)


def test_keys_sort_by_arrival_and_files_are_private(maildir: Maildir) -> None:
    keys = [maildir.store(b"N: %d\r\n\r\n" % number) for number in range(5)]
    assert maildir.keys() == keys[::-1]
    assert [path.stat().st_mode & 0o777 for path in (maildir.path / "new").iterdir()] == [0o600] * 5
    assert not list((maildir.path / "tmp").iterdir())
