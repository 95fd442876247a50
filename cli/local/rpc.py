"""XML-RPC with supervisord, over its Unix socket. supervisor's own transport takes longer to load than the rest of
`vashsender status`."""

import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import ProtocolError, ResponseError, ServerProxy, Transport

TIMEOUT_SECONDS = 60.0


def call(path: Path, method: str, *arguments: str | bool) -> Any:
    """What `method` returns.

    Raises xmlrpc.client.Fault if the server refuses, and OSError if it does not answer, or not with XML-RPC."""
    try:
        with ServerProxy("http://localhost", transport=_OnSocket(path)) as server:
            return getattr(server, method)(*arguments)
    except (ExpatError, HTTPException, ProtocolError, ResponseError) as error:
        raise OSError(f"{path} does not answer with XML-RPC: {error}") from error


class _OnSocket(Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        self._connection = host, _Connection(host, self._path)  # which `close` closes
        return self._connection[1]


class _Connection(HTTPConnection):
    def __init__(self, host: str, path: Path) -> None:
        super().__init__(host, timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))
