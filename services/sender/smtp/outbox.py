"""What a connection has yet to write. Transports buffer without bound, and TLS copies: so a long body waits here."""

import asyncio
from collections import deque
from collections.abc import Sequence

CHUNK_BYTES = 128 * 1024


class Outbox:
    """Passes pieces on in order while the transport has room for them."""

    __slots__ = ("_is_paused", "_pieces", "_transport", "_waiting")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._pieces: deque[memoryview] = deque()
        self._waiting = 0  # bytes of those pieces
        self._is_paused = False

    @property
    def unsent(self) -> int:
        """Bytes that the operating system does not have yet."""
        return self._waiting + self._transport.get_write_buffer_size()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Writes at once what there is room for, and the rest when there is."""
        size = sum(map(len, pieces))
        if size <= CHUNK_BYTES and not self._waiting:
            self._transport.writelines(pieces)
            return
        self._pieces.extend(map(memoryview, pieces))
        self._waiting += size
        self._flush()

    def pause(self) -> None:
        """The transport holds enough."""
        self._is_paused = True

    def resume(self) -> None:
        """It has room again."""
        self._is_paused = False
        self._flush()

    def clear(self) -> None:
        """Nothing more is written."""
        self._pieces.clear()
        self._waiting = 0

    def _flush(self) -> None:
        while self._pieces and not self._is_paused:
            piece = self._pieces.popleft()
            if len(piece) > CHUNK_BYTES:
                self._pieces.appendleft(piece[CHUNK_BYTES:])
                piece = piece[:CHUNK_BYTES]
            self._waiting -= len(piece)
            self._transport.write(piece)
