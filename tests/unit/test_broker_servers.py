"""Which address of a broker is tried next."""

import asyncio
import socket
import ssl
from typing import Any
from unittest.mock import Mock

import pytest
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from shared.broker import ServersInTurn

URL_OF_THREE = "amqp://me:p@mq:1/v?hosts=mq:1,mq:2,mq:3"


class Network:
    """Names that resolve, and addresses that refuse; all others take connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.names = {"mq": ["10.0.0.1"]}
        self.refusing: set[tuple[str, int]] = set()
        self.tried: list[tuple[str, int]] = []
        monkeypatch.setattr(asyncio, "open_connection", self.open_connection)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host: str, port: int, **_how: Any) -> list[Any]:
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in self.names[host]]

    async def open_connection(self, ip: str, port: int, **_how: Any) -> tuple[Any, Any]:
        self.tried.append((ip, port))
        if (ip, port) in self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        return Mock(), Mock()


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


async def attempt(servers: ServersInTurn) -> None:
    await servers.create(URL(URL_OF_THREE))


async def test_each_attempt_begins_with_the_address_that_was_tried_least_recently(network: Network) -> None:
    servers = ServersInTurn(URL_OF_THREE)
    for _ in range(6):
        await attempt(servers)
    assert sorted(network.tried[:3]) == [("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.1", 3)]
    assert network.tried[3:] == network.tried[:3]


async def test_a_name_may_have_several_addresses_which_may_change(network: Network) -> None:
    servers = ServersInTurn("amqp://me:p@mq/v")
    network.names["mq"] = ["10.0.0.1", "10.0.0.2"]
    for _ in range(2):
        await attempt(servers)
    assert sorted(network.tried) == [("10.0.0.1", 5672), ("10.0.0.2", 5672)]
    network.names["mq"] = ["10.0.0.2", "10.0.0.3"]
    await attempt(servers)
    assert network.tried[-1] == ("10.0.0.3", 5672)


async def test_a_refusal_leads_to_the_next_address_at_once(network: Network) -> None:
    servers = ServersInTurn(URL_OF_THREE)
    network.refusing = {("10.0.0.1", 1), ("10.0.0.1", 3)}
    await attempt(servers)
    assert network.tried[-1] == ("10.0.0.1", 2)


async def test_if_none_can_be_reached_each_is_named_with_its_reason(network: Network) -> None:
    servers = ServersInTurn("amqp://me:p@mq:1/v?hosts=mq:1,gone:2")
    network.refusing = {("10.0.0.1", 1)}
    with pytest.raises(AMQPConnectionError) as caught:
        await attempt(servers)
    assert "mq (10.0.0.1:1): Connection refused" in str(caught.value)
    assert "gone: Name or service not known" in str(caught.value)
    assert servers.all_tried


async def test_a_certificate_that_is_not_trusted_is_called_that(network: Network) -> None:
    async def refuse(*_: Any, **__: Any) -> tuple[Any, Any]:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed: unable to get local issuer certificate")

    network.monkeypatch.setattr(asyncio, "open_connection", refuse)
    with pytest.raises(AMQPConnectionError, match="certificate verify failed"):
        await attempt(ServersInTurn("amqp://me:p@mq:1/v"))


async def test_new_processes_spread_over_the_servers(network: Network) -> None:
    for _ in range(60):
        await attempt(ServersInTurn(URL_OF_THREE))
    assert {port for _, port in network.tried} == {1, 2, 3}
