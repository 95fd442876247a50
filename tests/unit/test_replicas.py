"""Queues of a cluster that have too few replicas, and how `doctor` finds them."""

from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from cli import replicas
from cli.doctor import _replicas
from cli.settings import LocalSettings
from shared.errors import UnavailableError

URL = "http://monitor:secret@rabbitmq:15672/vashsender"
WHOLE = ["rabbit@mq1", "rabbit@mq2", "rabbit@mq3"]


@pytest.mark.parametrize(
    ("members", "nodes", "short"),
    [
        ({"email": WHOLE}, 3, {}),
        ({"email": WHOLE[:1]}, 3, {"email": 1}),
        ({"email": WHOLE[:1], "dead": WHOLE}, 1, {"email": 1}),
        ({"email": WHOLE[:1]}, 1, {}),
        ({"email": WHOLE}, 5, {}),
    ],
)
def test_a_queue_wants_three_replicas_where_there_are_three_nodes(
    members: dict[str, list[str]], nodes: int, short: dict[str, int]
) -> None:
    assert replicas.short(members, nodes) == short


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    client = httpx.AsyncClient

    def with_transport(**how: object) -> httpx.AsyncClient:
        return client(transport=httpx.MockTransport(answer), auth=how["auth"])  # type: ignore[arg-type]

    monkeypatch.setattr(httpx, "AsyncClient", with_transport)


async def test_doctor_says_which_queue_and_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://rabbitmq:15672/api/queues/vashsender"
        assert request.headers["Authorization"].startswith("Basic ")
        queues = [{"name": "email", "members": WHOLE[:1]}, {"name": "dead", "members": WHOLE}, {"name": "theirs"}]
        return httpx.Response(200, json=queues)

    answering(monkeypatch, answer)
    config = LocalSettings(amqp_url=SecretStr("amqp://me:p@127.0.0.1/v"), amqp_management_url=SecretStr(URL))
    (examined,) = await _replicas(config)
    assert not examined.ok
    assert examined.found == "too few: email 1"
    assert "rabbitmq-queues grow NODE all --vhost-pattern '^vashsender$'" in examined.advice


async def test_a_refusal_names_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda _: httpx.Response(401))
    with pytest.raises(UnavailableError, match="401") as caught:
        await replicas.replicas(URL, None)
    assert "secret" not in str(caught.value)


async def test_nothing_is_said_about_a_single_broker_and_several_without_a_url_are_named() -> None:
    single = LocalSettings(amqp_url=SecretStr("amqp://me:p@127.0.0.1/v"))
    assert await _replicas(single) == []
    several = LocalSettings(amqp_url=SecretStr("amqp://me:p@127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/v"))
    (examined,) = await _replicas(several)
    assert examined.ok
    assert examined.found.startswith("not looked at: 3 brokers")
