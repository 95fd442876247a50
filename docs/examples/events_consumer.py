"""Reads VashSender's events from RabbitMQ, and stores each once. `pip install "faststream[rabbit]"`."""

import asyncio
import os
import sqlite3
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas.queue import ClassicQueueArgs

kept: ClassicQueueArgs = {"x-max-length": 100_000, "x-overflow": "drop-head"}  # what it may fall behind
queue = RabbitQueue(os.environ["QUEUE"], durable=True, routing_key=os.environ.get("KEY", "#"), arguments=kept)
exchange = RabbitExchange("vashsender.events", type=ExchangeType.TOPIC, declare=False)
broker = RabbitBroker(os.environ["AMQP_URL"])
store = sqlite3.connect(os.environ.get("EVENTS_DB", "events.db"))
store.execute("CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, type TEXT, position INTEGER)")


@broker.subscriber(queue, exchange, ack_policy=AckPolicy.NACK_ON_ERROR)
async def store_once(event: dict[str, Any]) -> None:
    with store:  # one that comes again changes nothing
        store.execute("INSERT OR IGNORE INTO event VALUES (:id, :type, :position)", event)


asyncio.run(FastStream(broker).run())
