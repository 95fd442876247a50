"""What a service says of the broker while it has nothing to publish."""

import asyncio
import time
from unittest.mock import AsyncMock, Mock
from uuid import uuid4

import pytest
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from shared.bus import REFUSAL_SECONDS, TROUBLE_SECONDS, Bus
from shared.events import CampaignRequested
from shared.metrics import Metrics
from shared.reception import Reception, RefusedEventError, account_of


async def test_an_event_lost_long_ago_is_no_trouble_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process that lost one before it was connected, and has no other to publish, would never be ready."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=ConnectionError("away")))
    monkeypatch.setattr(bus._publisher, "ping", AsyncMock(return_value=True))
    assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))
    bus.connected.set()
    assert await bus.check(1) == "the broker did not confirm the last event"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + TROUBLE_SECONDS + 1)
    assert await bus.check(1) == ""


def reception(service: str, account: str, *, nameless: bool = True) -> Reception:
    return Reception(service, f"amqp://{account}:secret@broker/vashsender", accepts_nameless=nameless)


def test_an_event_comes_from_an_account_that_publishes_it() -> None:
    watchdog = reception("watchdog", "vashsender_watchdog")
    for account in ("vashsender_sender", "vashsender_admin", None):
        watchdog.check("sender.heartbeat", account)
    for account in ("vashsender_api", "vashsender_dispatcher", "vashsender_watchdog", "sender", "x_sender", "guest"):
        with pytest.raises(RefusedEventError, match=r"sender\.heartbeat came from"):
            watchdog.check("sender.heartbeat", account)
    dispatcher = reception("dispatcher", "test1_dispatcher")
    dispatcher.check("batch.requeued", "test1_watchdog")
    with pytest.raises(RefusedEventError):
        dispatcher.check("batch.requeued", "test1_api")
    with pytest.raises(RefusedEventError):
        dispatcher.check("invented", "test1_sender")


def test_events_without_an_account_are_refused_once_0_1_0_is_gone() -> None:
    for account in (None, ""):
        with pytest.raises(RefusedEventError, match="VASHSENDER_NAMELESS_EVENTS"):
            reception("watchdog", "vashsender_watchdog", nameless=False).check("sender.heartbeat", account)


def test_services_that_share_an_account_believe_it() -> None:
    for own in ("services", "guest", "watchdog"):
        reception("watchdog", own, nameless=False).check("sender.heartbeat", "anyone")
        reception("watchdog", own, nameless=False).check("sender.heartbeat", None)


@pytest.mark.parametrize(
    ("url", "account"),
    [
        ("amqp://me:secret@broker/x", "me"),
        ("amqp://m%40e:secret@broker/x", "m@e"),
        ("amqp://broker/x", "guest"),
        ("amqp://me:secret@broker1,broker2:5673/x", "me"),
        ("amqps://broker/x?auth=external&certfile=a", None),
    ],
)
def test_the_account_is_that_of_the_url(url: str, account: str | None) -> None:
    assert account_of(url) == account


async def test_a_server_that_does_not_confirm_is_left_unless_it_confirmed_another_event_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    leave = AsyncMock()
    monkeypatch.setattr(bus._publisher, "leave", leave)
    monkeypatch.setattr(bus._publisher, "takes_messages", AsyncMock(return_value=True))
    bus.connected.set()
    event = CampaignRequested(campaign_id=uuid4())
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=ConnectionError("closed")))
    assert not await bus.publish(event)
    assert not leave.called  # it is connecting again already

    async def confirm_another_first(*_: object, **__: object) -> None:
        bus._confirmed_at = time.monotonic()
        raise TimeoutError

    monkeypatch.setattr(bus._publisher, "publish", confirm_another_first)
    assert not await bus.publish(event)
    assert not leave.called
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=TimeoutError))
    assert not await bus.publish(event)
    assert leave.called


async def test_a_connection_on_which_the_broker_refuses_events_is_left_but_not_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ may refuse every event of a channel for a queue, but one queue's trouble must not break what the others
    need all the time. An event that no queue takes comes back on any connection."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    leave = AsyncMock()
    monkeypatch.setattr(bus._publisher, "leave", leave)
    monkeypatch.setattr(bus._publisher, "takes_messages", AsyncMock(return_value=True))
    bus.connected.set()
    event = CampaignRequested(campaign_id=uuid4())
    returned = PublishError(Mock(delivery=Basic.Return(312, "NO_ROUTE", "", "")), Mock())
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=returned))
    assert not await bus.publish(event)
    assert not leave.called
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=DeliveryError(None, Basic.Nack(1))))
    assert not await bus.publish(event)
    assert not await bus.publish(event)
    assert leave.call_count == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + REFUSAL_SECONDS)
    assert not await bus.publish(event)
    assert leave.call_count == 2


async def test_while_the_broker_is_away_one_event_waits_for_it_and_the_next_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what publishes one event after the other would wait for the timeout each time."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    bus.connected.set()
    publish, takes_messages = AsyncMock(side_effect=TimeoutError), AsyncMock(return_value=False)
    monkeypatch.setattr(bus._publisher, "publish", publish)
    monkeypatch.setattr(bus._publisher, "takes_messages", takes_messages)
    for _ in range(3):
        assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))
    assert publish.await_count == 1
    bus._waited_in_vain = False
    publish.side_effect = ConnectionError("closed")  # it may be back in a second: the next one waits for that
    for _ in range(3):
        assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))
    assert publish.await_count == 4
    publish.side_effect = TimeoutError
    assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))
    takes_messages.return_value = True
    publish.side_effect = None
    assert await bus.publish(CampaignRequested(campaign_id=uuid4()))
    takes_messages.return_value = False  # an event was confirmed since: the next one may wait
    assert await bus.publish(CampaignRequested(campaign_id=uuid4()))


async def test_a_connection_that_breaks_does_not_cancel_what_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiormq cancels what waits for a silent connection. A heartbeat that ended with it would never come again."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    bus.connected.set()
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=asyncio.CancelledError))
    assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))

    async def wait(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bus._publisher, "publish", wait)
    monkeypatch.setattr(bus._publisher, "takes_messages", AsyncMock(return_value=True))
    publishing = asyncio.create_task(bus.publish(CampaignRequested(campaign_id=uuid4())))
    await asyncio.sleep(0)
    publishing.cancel()  # a cancellation of the task itself still ends it
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_a_bus_closes_whatever_its_connection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a connection breaks, aiormq cancels what waits for it; that must not cancel the stop."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    bus.subscribe("email", CampaignRequested, AsyncMock(), prefetch=1)
    stops = [bus._consumer, bus._publisher, *bus._subscribers]
    for part in stops:
        monkeypatch.setattr(part, "stop", AsyncMock(side_effect=asyncio.CancelledError))
    monkeypatch.setattr("shared.bus.watch", AsyncMock(side_effect=RuntimeError("the look failed")))
    monkeypatch.setattr(bus._publisher, "start", AsyncMock())
    monkeypatch.setattr(bus._consumer, "start", AsyncMock())
    bus.start()
    await bus.connected.wait()
    await asyncio.sleep(0)
    await bus.stop_consuming()
    await bus.close()
    assert all(part.stop.await_count == 1 for part in stops)  # type: ignore[attr-defined]


async def test_a_bus_that_is_cancelled_while_it_closes_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus("amqp://localhost/", Metrics("test"), name="test", publish_timeout_seconds=60)
    monkeypatch.setattr(bus._consumer, "stop", asyncio.Event().wait)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
