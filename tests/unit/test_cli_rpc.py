"""XML-RPC on a Unix socket: what supervisord may answer. test_cli_supervise.py has a real supervisord."""

import socket
import threading
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.local.rpc import call

Serve = Callable[[bytes], list[bytes]]
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\n\r\n"
VALUE = {"name": "sender-1", "pid": 41, "running": True, "why": "", "ports": [1, [2, False]], "words": "<ä & b>"}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Answers one request on `tmp_path / "socket"`, closes, and returns what it is asked."""

    def start(answer: bytes) -> list[bytes]:
        asked: list[bytes] = []
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "socket"))
        server.listen()

        def run() -> None:
            with server, server.accept()[0] as connection:
                request = b""
                while not request.strip().endswith(b"</methodCall>"):
                    request += connection.recv(65_536)
                asked.append(request)
                connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return asked

    return start


def test_arguments_and_answers_are_as_the_standard_library_reads_and_writes_them(serve: Serve, tmp_path: Path) -> None:
    asked = serve(HEAD + xmlrpc.client.dumps((VALUE,), methodresponse=True).encode())
    assert call(tmp_path / "socket", "supervisor.stopProcess", "a<ü>&b", False) == VALUE
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert xmlrpc.client.loads(body) == (("a<ü>&b", False), "supervisor.stopProcess")


def test_a_refusal_is_a_fault_in_the_servers_words(serve: Serve, tmp_path: Path) -> None:
    serve(HEAD + xmlrpc.client.dumps(xmlrpc.client.Fault(10, "BAD_NAME: x")).encode())
    with pytest.raises(xmlrpc.client.Fault, match="BAD_NAME: x"):
        call(tmp_path / "socket", "supervisor.stopProcess", "x")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.0 500 Internal Server Error\r\n\r\n",
        HEAD,
        HEAD + b"<methodResponse><params><param><value><int>1</int></val",
        HEAD + b"<methodResponse/>",
    ],
)
def test_anything_else_counts_as_no_answer(serve: Serve, tmp_path: Path, answer: bytes) -> None:
    serve(answer)
    with pytest.raises(OSError, match=r"XML-RPC|refused|closed connection"):
        call(tmp_path / "socket", "supervisor.getState")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        call(tmp_path / "socket", "supervisor.getState")
