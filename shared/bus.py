"""The broker as a service sees it: subscribe, publish, stop. One connection consumes, the other publishes.

Losing an event loses no mail, so publishing never raises: a lost event is counted, and the services' clocks find in
the ledger what it would have announced.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from aio_pika.abc import AbstractIncomingMessage as IncomingMessage
from aiormq.exceptions import ChannelAccessRefused, DeliveryError, PublishError
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitExchange, RabbitQueue
from faststream.rabbit.message import RabbitMessage
from faststream.rabbit.schemas.queue import QueueType
from faststream.rabbit.subscriber import RabbitSubscriber
from yarl import URL

from shared import logs, topology
from shared.broker import CONNECT_SECONDS, broken_is_an_error, why_refused
from shared.broker_url import with_one_host
from shared.consumers import Consumer, watch
from shared.events import Event
from shared.lasting_broker import LastingBroker
from shared.metrics import Metrics
from shared.reception import KEPT_BYTES, Keeping, Reception, Refused, RefusedEventError, account_of, read
from shared.tasks import end_all

RECONNECT_SECONDS = 1.0
HEARTBEAT_SECONDS = 10  # AMQP's own heartbeat; aiormq gives a silent server up after three of them (33 s)
START_SECONDS = 30.0  # for two connections and all consumers
REFUSAL_SECONDS = 10.0  # a queue may be without a leader for long; the events of other queues need the connection
TROUBLE_SECONDS = 15.0  # an older loss says nothing about now: there may be no other event to publish
GRACEFUL_SECONDS = 0.0  # FastStream waits for no handler: services drain themselves before the bus closes

E = TypeVar("E", bound=Event)
log = logs.get()


class Bus:
    """Two brokers that connect, and reconnect, in the background."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        name: str,
        publish_timeout_seconds: float = 5.0,
        reception: Reception | None = None,
    ) -> None:
        """`reception` judges whose events are accepted; without one, everybody's are."""

        def broker(role: str) -> LastingBroker:
            return LastingBroker(
                str(URL(with_one_host(url)).update_query(name=f"{name} {role}", heartbeat=HEARTBEAT_SECONDS)),
                logger=None,
                apply_types=False,  # it would resolve each handler's arguments in a thread
                graceful_timeout=GRACEFUL_SECONDS,
                timeout=CONNECT_SECONDS,
                reconnect_interval=RECONNECT_SECONDS,
                # An unroutable event must not pass for a delivered one.
                default_channel=Channel(prefetch_count=1, on_return_raises=True),
            )

        self._consumer = broker("consumer")
        self._publisher = broker("publisher")
        self._metrics = metrics
        self._reception = reception
        self._account = account_of(url)
        self._timeout = publish_timeout_seconds
        self._exchange = RabbitExchange(topology.EXCHANGE, type=ExchangeType.TOPIC, durable=True, declare=False)
        self._subscribers: list[RabbitSubscriber] = []
        self._consumers: list[Consumer] = []
        self._watching: asyncio.Task[None] | None = None
        self._keeping = Keeping()
        #: False once the broker has said that this account may not.
        self._may_keep = True
        self._connecting: asyncio.Task[None] | None = None
        self._failed_at = float("-inf")
        self._confirmed_at = float("-inf")
        #: An event has waited for the broker, and those after it do not wait one by one while it is away.
        self._waited_in_vain = False
        #: When the connection was left because the broker refused an event.
        self._left_refusal_at = float("-inf")
        #: Why the first connection is not up yet, for readiness; empty once it is.
        self.state = "not connected yet"
        self.connected = asyncio.Event()

    def subscribe(self, queue: str, event: type[E], handler: Callable[[E], Awaitable[None]], *, prefetch: int) -> None:
        """Calls `handler` for every event on `queue`, at most `prefetch` at once. The event is acknowledged when the
        handler returns. If it raises, or the event is refused, the event comes again, since another release may be able
        to read it, and goes to `dead` after its delivery limit. A refused event of a queue without a dead-letter
        exchange goes there at once."""

        consumer = Consumer(queue, prefetch)

        async def handle(message: RabbitMessage) -> None:
            with consumer.handling():
                await take(message)

        async def take(message: RabbitMessage) -> None:
            outcome = "error"
            try:
                await handler(self._read(event, message.raw_message))
                outcome = "ok"
            except RefusedEventError as error:
                outcome = "refused"
                log.error("event.refused", event_name=event.ROUTING_KEY, queue=queue, reason=str(error))
                if queue not in topology.WITHOUT_DEAD_LETTERS or not await self._keep(queue, message, str(error)):
                    raise
            except Exception:
                log.exception("event.failed", event_name=event.ROUTING_KEY)
                raise
            finally:
                self._metrics.consumed.labels(event.ROUTING_KEY, outcome).inc()

        subscriber = self._consumer.subscriber(
            RabbitQueue(queue, queue_type=QueueType.QUORUM, declare=False),
            channel=Channel(prefetch_count=prefetch),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            decoder=_as_it_came,
        )
        subscriber(handle)
        self._subscribers.append(subscriber)
        self._consumers.append(consumer)

    def _read(self, event: type[E], message: IncomingMessage) -> E:
        if self._reception is not None:
            self._reception.check(message.routing_key or event.ROUTING_KEY, message.user_id)
        return read(event, message.body)

    async def _keep(self, queue: str, message: RabbitMessage, reason: str) -> bool:
        """Puts a refused event into `dead`. False if the broker did not take it; True, too, if enough of them are
        there."""
        raw = message.raw_message
        refused = Refused(queue, raw.routing_key or "", reason, raw.user_id or "")
        if not self._may_keep or not self._keeping.take():
            return True
        try:
            async with asyncio.timeout(self._timeout):
                await self._publisher.publish(
                    raw.body[:KEPT_BYTES],
                    exchange=self._exchange,
                    routing_key=topology.REFUSED_KEY,
                    headers=refused.headers(),
                    timestamp=datetime.now(UTC),
                    persist=True,
                    mandatory=True,
                    user_id=self._account,
                )
        except ChannelAccessRefused:
            # It closes the channel, so it is not tried again.
            self._may_keep = False
            log.warning("event.not_kept", advice="import the definitions of `vashsender access new` into the broker")
        except Exception as error:  # noqa: BLE001 - it comes again
            log.warning("event.not_kept", error=str(error) or type(error).__name__)
            return False
        return True

    async def publish(self, event: Event) -> bool:
        """Hands an event to the broker and waits for its confirmation. Returns False if it may not have arrived."""
        name = event.ROUTING_KEY
        began, transport = time.monotonic(), self._publisher.servers.transport
        try:
            if not self.connected.is_set():
                raise ConnectionError(self.state)
            if self._waited_in_vain and not await self._publisher.takes_messages():
                raise ConnectionError("the broker is still away")
            with broken_is_an_error():
                async with asyncio.timeout(self._timeout):
                    await self._publisher.publish(
                        event,
                        exchange=self._exchange,
                        routing_key=name,
                        persist=True,
                        mandatory=True,
                        user_id=self._account,
                    )
        except Exception as error:  # noqa: BLE001 - whatever it is, the services' clocks make up for it
            self._failed_at = time.monotonic()
            self._waited_in_vain |= isinstance(error, TimeoutError)
            if self._is_stuck(error, began):
                await self._publisher.leave(transport)
            self._metrics.published.labels(name, "lost").inc()
            log.warning("event.lost", event_name=name, error=str(error) or type(error).__name__)
            return False
        self._failed_at = float("-inf")
        self._confirmed_at = time.monotonic()
        self._waited_in_vain = False
        self._metrics.published.labels(name, "confirmed").inc()
        return True

    def _is_stuck(self, error: Exception, began: float) -> bool:
        """Whether a new connection may confirm the event that this one did not."""
        if isinstance(error, DeliveryError) and not isinstance(error, PublishError):
            # A channel whose first event for a queue comes before the queue has a leader again asks the lost node each
            # time, and refuses every event for that queue until the node is back (RabbitMQ 3.10, rabbit_fifo_client).
            if (now := time.monotonic()) - self._left_refusal_at < REFUSAL_SECONDS:
                return False
            self._left_refusal_at = now
            return True
        return isinstance(error, TimeoutError) and self._confirmed_at < began

    def start(self) -> None:
        """Starts to connect in the background; services work without the broker until it is there."""
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """Connects once. Afterwards aio-pika reconnects by itself and resumes the consumers."""
        while True:
            try:
                with broken_is_an_error():
                    async with asyncio.timeout(START_SECONDS):
                        await self._publisher.start()
                        await self._consumer.start()
            except Exception as error:  # noqa: BLE001 - the broker is away or topology is missing: try again
                self.state = why_refused(error)
                log.warning("broker.unreachable", error=self.state)
                await self._stop(self._consumer.stop)
                await self._stop(self._publisher.stop)
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                self.connected.set()
                self.state = ""
                log.info("broker.connected")
                self._watching = asyncio.create_task(watch(self._consumer, self._consumers, self._metrics))
                return

    async def check(self, timeout_seconds: float) -> str:
        """Says what is wrong with the broker now; empty if events flow."""
        connected = False
        try:
            if not self.connected.is_set():
                return self.state
            if not await self._publisher.ping(timeout_seconds):
                return "the publishing connection is down"
            if self._subscribers and not await self._consumer.ping(timeout_seconds):
                return "the consuming connection is down"
            if time.monotonic() - self._failed_at < TROUBLE_SECONDS:
                return "the broker did not confirm the last event"
            connected = True
            return ""
        finally:
            self._metrics.broker_connected.set(connected)

    async def stop_consuming(self) -> None:
        """Takes no more events; handlers that run go on and acknowledge theirs. An event that arrives until
        the broker confirms stays unacknowledged; it is delivered again elsewhere once the bus is closed."""
        await _end(self._watching)
        for subscriber in self._subscribers:
            await self._stop(subscriber.stop)

    async def close(self) -> None:
        await _end(self._connecting)
        await _end(self._watching)
        for broker in (self._consumer, self._publisher):
            await self._stop(broker.stop)

    async def _stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Stops a part of the connection, within the time to publish. Errors do not matter: it is not used again."""
        with suppress(Exception), broken_is_an_error():
            async with asyncio.timeout(self._timeout):
                await stop()


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancels a task and waits until it has ended. An error of it is logged."""
    if task is not None:
        await end_all([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bus.failed", exc_info=error)


async def _as_it_came(message: RabbitMessage) -> RabbitMessage:
    """It is read where a refusal is counted and logged."""
    return message
