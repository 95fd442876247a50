"""A program that takes POSTs, in the event loop of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

Take = Callable[[str, Mapping[str, str], bytes], int | None]


@asynccontextmanager
async def receiver(take: Take) -> AsyncIterator[str]:
    """Serves on a free port of this machine; yields the URL, without a path.

    `take` gets the path, the headers by their names in lower case, and the body of each POST. It returns the status of
    the answer; None: the connection is closed without one."""

    connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer] = asyncio.current_task()
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has ended, or was killed
                while True:
                    request, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
                    body = await reader.readexactly(int(headers["content-length"]))
                    status = take(request.split()[1], headers, body)
                    if status is None:
                        return
                    writer.write(f"HTTP/1.1 {status} Answer\r\ncontent-length: 0\r\n\r\n".encode())
                    await writer.drain()
        finally:
            del connections[writer]
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        ending = [task for task in connections.values() if task is not None]
        for writer in connections:
            writer.close()
        await asyncio.gather(*ending, return_exceptions=True)
