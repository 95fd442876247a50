"""A long body leaves bit by bit: the transport never holds much more than it asks for."""

import asyncio

from services.sender.smtp.outbox import CHUNK_BYTES, Outbox


class SlowTransport(asyncio.WriteTransport):
    """Asks for a pause as soon as it holds anything."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(self)
        self.held = b""
        self.most_held = 0
        self.sent = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.held += bytes(data)
        self.most_held = max(self.most_held, len(self.held))
        self.outbox.pause()

    def writelines(self, list_of_data: object) -> None:
        self.write(b"".join(list_of_data))  # type: ignore[arg-type]

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def drain(self) -> None:
        self.sent, self.held = self.sent + self.held, b""
        self.outbox.resume()


def test_long_pieces_leave_in_order_and_in_chunks() -> None:
    transport = SlowTransport()
    pieces = [b"MAIL", bytes(range(256)) * 5000, b".\r\n", b"NEXT" * 100_000, b"end"]
    transport.outbox.write(pieces[:3])
    transport.outbox.write(pieces[3:])
    whole = b"".join(pieces)
    assert transport.outbox.unsent == len(whole)
    while transport.outbox.unsent:
        transport.drain()
    assert transport.sent == whole
    assert transport.most_held <= CHUNK_BYTES


def test_short_pieces_go_out_at_once() -> None:
    transport = SlowTransport()
    transport.outbox.write([b"MAIL", b"RCPT"])
    assert transport.held == b"MAILRCPT"


def test_nothing_overtakes_what_waits() -> None:
    transport = SlowTransport()
    transport.outbox.write([b"a" * (CHUNK_BYTES + 1)])
    transport.outbox.write([b"b"])
    assert transport.outbox.unsent == CHUNK_BYTES + 2
    while transport.outbox.unsent:
        transport.drain()
    assert transport.sent.endswith(b"ab")


def test_what_waits_is_forgotten_when_the_connection_ends() -> None:
    transport = SlowTransport()
    transport.outbox.write([b"a" * (2 * CHUNK_BYTES)])
    transport.outbox.clear()
    transport.drain()
    assert len(transport.sent) == CHUNK_BYTES
    assert transport.outbox.unsent == 0
