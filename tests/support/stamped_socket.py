"""Sockets that know when bytes came, by the kernel's clock: a reader that is late does not distort it."""

import socket
import struct
import time

_SO_TIMESTAMPNS = 35  # linux/socket.h; the module socket does not name it
_TIMESPEC = struct.Struct("qq")


class StampedSocket(socket.socket):
    """A TCP socket whose accepted connections note the arrival of what was read last."""

    #: Read one byte next: then `arrived_at` is the moment of that byte, whatever came behind it.
    one_byte = False
    #: When what was read last came, as `time.monotonic()`.
    arrived_at = 0.0

    def accept(self) -> tuple["StampedSocket", object]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        connection = StampedSocket(self.family, self.type, self.proto, fileno=fd)
        connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        return connection, address

    def recv(self, size: int, flags: int = 0) -> bytes:
        data, ancillary, _, _ = self.recvmsg(1 if self.one_byte else size, socket.CMSG_SPACE(_TIMESPEC.size), flags)
        self.arrived_at = time.monotonic()
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                self.arrived_at -= max(0.0, time.time() - seconds - nanoseconds / 1e9)
        return data


def listening_socket(port: int) -> StampedSocket:
    """Listens on 127.0.0.1; port 0: any that is free."""
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it, replies wait up to 40 ms.
    listener = StampedSocket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener
