"""Ports of this machine: finding free ones, and naming the holder of an occupied one."""

import os
import socket
from collections.abc import Iterator

import pytest

from cli.local import ports
from cli.local.ports import PortTakenError, free_ports, is_free, refuse_taken
from shared.ports import holder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_ports_differ_and_are_free() -> None:
    found = free_ports(50)
    assert len(set(found)) == 50
    assert all(map(is_free, found))


def test_a_port_is_not_given_twice_before_its_server_listens() -> None:
    assert not set(free_ports(50)) & set(free_ports(50))


def test_processes_with_different_shares_never_choose_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        monkeypatch.setattr(ports, "share", (index, 3))
        assert {(port - ports.LOWEST_RANDOM_PORT) % 3 for port in free_ports(20)} == {index}


def test_an_occupied_port_is_not_free(taken_port: int) -> None:
    assert not is_free(taken_port)


def test_a_port_occupied_on_every_address_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_a_port_is_free_again_after_its_connections() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like servers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the server closes first, so its side stays in TIME_WAIT
            assert client.recv(1) == b""
    assert is_free(port)


def test_the_holder_is_named(taken_port: int) -> None:
    assert f"(pid {os.getpid()}, " in holder(taken_port)


def test_an_occupied_port_is_refused_with_its_purpose(taken_port: int) -> None:
    with pytest.raises(PortTakenError, match=rf"port {taken_port} \(the page\) is taken by .*pid {os.getpid()}"):
        refuse_taken({"the API": free_ports(1)[0], "the page": taken_port})
