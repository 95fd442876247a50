"""Which addresses a webhook may go to, judged by the address really connected to."""

import asyncio
import socket
from typing import Any

import httpcore
import pytest

from services.webhooks.addresses import is_allowed, may_connect, parse_networks
from services.webhooks.http import Client, GuardedNetwork, trusted

PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "169.254.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "ff02::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "2001::1", "2001:db8::1", "not an address", ""),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert may_connect(address, ())


@pytest.mark.parametrize("address", PRIVATE)
def test_all_others_are_refused(address: str) -> None:
    assert not may_connect(address, ())


def test_a_setting_allows_networks_and_nothing_beside_them() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00::/8 127.0.0.1/32")
    assert all(may_connect(address, allowed) for address in ("10.1.2.3", "fd00::1", "127.0.0.1", "::ffff:10.1.2.3"))
    assert not any(may_connect(address, allowed) for address in ("10.2.0.1", "127.0.0.2", "fe80::1", "::1"))
    assert not is_allowed("8.8.8.8", allowed)
    with pytest.raises(ValueError, match="has host bits set"):
        parse_networks("10.0.0.1/8")


class _Recorded(httpcore.AsyncNetworkBackend):
    """Connects to nothing; says which address it was asked for, and which one it claims to have reached."""

    def __init__(self, reached: str | None = None) -> None:
        self.asked: list[str] = []
        self._reached = reached

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        reached = self._reached or host

        class Stream(httpcore.AsyncMockStream):
            def get_extra_info(self, info: str) -> Any:
                return (reached, 443) if info == "server_addr" else None

        return Stream([])


def guarded(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]], backend: _Recorded) -> GuardedNetwork:
    """A network whose resolver gives these answers, one after the other."""
    network = GuardedNetwork(lambda address: may_connect(address, ()), "not public")

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(network, "_inner", backend)
    return network


def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _Recorded()
    network = guarded(monkeypatch, [["127.0.0.1", "10.0.0.1"]], backend)
    with pytest.raises(httpcore.ConnectError, match="not public"):
        asyncio.run(network.connect_tcp("rebind.test", 443))
    assert backend.asked == []


def test_only_the_public_one_of_several_addresses_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _Recorded()
    network = guarded(monkeypatch, [["127.0.0.1", "8.8.8.8"]], backend)
    asyncio.run(network.connect_tcp("mixed.test", 443))
    assert backend.asked == ["8.8.8.8"]


def test_a_name_whose_answer_changes_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a public address to be judged, a private one to connect to."""
    backend, answers = _Recorded(), [["8.8.8.8"], ["127.0.0.1"]]
    network = guarded(monkeypatch, answers, backend)
    asyncio.run(network.connect_tcp("rebind.test", 443))
    assert backend.asked == ["8.8.8.8"], "an address, not the name"
    assert len(answers) == 1


def test_the_address_really_reached_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = guarded(monkeypatch, [["8.8.8.8"]], _Recorded(reached="127.0.0.1"))
    with pytest.raises(httpcore.ConnectError, match="not public"):
        asyncio.run(network.connect_tcp("odd.test", 443))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://[::1]/", "http://0/", "http://2130706433/", "https://[::ffff:127.0.0.1]/"]
)
async def test_addresses_in_urls_are_judged_in_every_spelling(url: str) -> None:
    client = Client((), trusted(None), 10.0)
    answer = await client.post(url, {}, b"{}")
    await client.close()
    assert answer.status is None
    assert "VASHSENDER_WEBHOOK_NETWORKS" in answer.error or "cannot be resolved" in answer.error


async def test_plain_http_goes_only_to_allowed_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client((), trusted(None), 10.0)
    answer = await client.post("http://8.8.8.8/", {}, b"{}")
    await client.close()
    assert "use https" in answer.error
