"""A TCP proxy that adds a round trip time: each byte arrives half of it later, in each direction.

Run as `python -m bench.delay PORT TARGET_PORT ROUND_TRIP_SECONDS [LISTEN_ADDRESS]`.
"""

import asyncio
import sys
from collections import deque
from typing import cast

import uvloop


class Pipe(asyncio.Protocol):
    """One end of a connection. `other` sends the bytes it receives after the delay."""

    def __init__(self, delay: float) -> None:
        self.other: Pipe | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._heard: deque[bytes] = deque()
        self._due = 0  # of these, those to pass on as soon as the other end is connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard.append(data)
        asyncio.get_running_loop().call_later(self._delay, self._pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._hang_up)

    def _pass_on(self) -> None:
        if self.other is None:
            self._due += 1
            return
        data = self._heard.popleft()
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def _hang_up(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(Pipe):
    """The end that clients connect to."""

    def __init__(self, delay: float, target: int, tasks: asyncio.TaskGroup) -> None:
        super().__init__(delay)
        self._target = target
        self._tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tasks.create_task(self._connect())

    async def _connect(self) -> None:
        await asyncio.sleep(self._delay)
        _, back = await asyncio.get_running_loop().create_connection(
            lambda: Pipe(self._delay), "127.0.0.1", self._target
        )
        self.other, back.other = back, self
        for _ in range(self._due):
            self._pass_on()


async def serve(port: int, target: int, round_trip: float, address: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        server = await asyncio.get_running_loop().create_server(
            lambda: Front(round_trip / 2, target, tasks), address, port
        )
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), (*sys.argv[4:], "127.0.0.1")[0]))
