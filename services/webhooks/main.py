"""The service webhooks: tells the endpoints of projects what happened, and publishes it. It holds no key but theirs."""

from functools import partial

from services.webhooks.addresses import parse_networks
from services.webhooks.courier import LOOK_SECONDS, RENEW_SECONDS, Courier
from services.webhooks.drain import drain
from services.webhooks.exchange import EventsExchange
from services.webhooks.http import Client, trusted
from services.webhooks.metrics import WebhookMetrics
from services.webhooks.publisher import PUBLISH_SECONDS, Publisher
from shared.process import ALIVE_SECONDS, Process
from shared.settings import WebhooksSettings


async def serve(process: Process[WebhooksSettings]) -> None:
    """Builds the parts and runs them until the process stops."""
    settings = process.settings
    metrics = WebhookMetrics(process.metrics, process.ledger, publishes=settings.publish_events)
    client = Client(parse_networks(settings.webhook_networks), trusted(settings.ca_file), settings.webhook_post_seconds)
    courier = Courier(settings, process.ledger, client, metrics)
    exchange = EventsExchange(settings.broker_url, process.instance)
    publisher = Publisher(process.ledger, exchange, metrics, enabled=settings.publish_events)

    process.health.optional.add("broker")
    process.health.refresh.append(metrics.refresh)

    await process.run(
        process.clock(process.note_alive, ALIVE_SECONDS),
        process.clock(courier.look, LOOK_SECONDS),
        process.clock(courier.renew, RENEW_SECONDS),
        process.clock(publisher.tick, PUBLISH_SECONDS, may_last=True),
        process.clock(publisher.renew, RENEW_SECONDS),
        drain=partial(drain, courier, publisher),
    )
