"""The service webhooks: tells the endpoints of projects what happened. It holds no key but theirs."""

from services.webhooks.addresses import parse_networks
from services.webhooks.courier import LOOK_SECONDS, RENEW_SECONDS, Courier
from services.webhooks.http import Client, trusted
from services.webhooks.metrics import WebhookMetrics
from shared.process import ALIVE_SECONDS, Process
from shared.settings import WebhooksSettings


async def serve(process: Process[WebhooksSettings]) -> None:
    """Builds the parts and runs them until the process stops."""
    settings = process.settings
    metrics = WebhookMetrics(process.metrics, process.ledger)
    client = Client(parse_networks(settings.webhook_networks), trusted(settings.ca_file), settings.webhook_post_seconds)
    courier = Courier(settings, process.ledger, client, metrics)

    process.health.optional.add("broker")
    process.health.refresh.append(metrics.refresh)

    await process.run(
        process.clock(process.note_alive, ALIVE_SECONDS),
        process.clock(courier.look, LOOK_SECONDS),
        process.clock(courier.renew, RENEW_SECONDS),
        drain=courier.drain,
    )
