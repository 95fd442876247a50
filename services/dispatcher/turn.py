"""One turn on one campaign that needs longer work: it is stopped, reopened or closed, within two deadlines."""

import asyncio

from services.dispatcher import closing, reopening, stopping
from services.dispatcher.deadline import Deadline
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.survey import Standing
from shared import logs
from shared.events import BatchRequeued, CampaignFinished, Event
from shared.ledger import timeline
from shared.ledger.database import Ledger
from shared.ledger.repair import Repair
from shared.ledger.states import CampaignStatus
from shared.settings import DispatcherSettings

log = logs.get()


async def take_turn(
    settings: DispatcherSettings, ledger: Ledger, metrics: DispatcherMetrics, campaign: Standing
) -> list[Event] | None:
    """Works until it is done or the soft deadline passes; at the hard one the transaction at hand is rolled back and
    the next clock turn begins another. Returns the events to publish, or None where nothing could be done yet."""
    deadline = Deadline(settings.turn_soft_seconds)
    try:
        with metrics.turn_seconds.time():
            async with asyncio.timeout(settings.turn_hard_seconds):
                events = await _work(ledger, metrics, campaign, deadline)
    except TimeoutError:
        metrics.turns_abandoned.inc()
        log.error("turn.abandoned", campaign_id=str(campaign.id), seconds=settings.turn_hard_seconds)
        await _note(ledger, campaign, f"A turn was abandoned after {settings.turn_hard_seconds:g} s; another follows")
        return None
    if deadline.was_met:
        await _note(ledger, campaign, f"A turn yielded after {settings.turn_soft_seconds:g} s; the next one goes on")
    return events


async def _work(
    ledger: Ledger, metrics: DispatcherMetrics, campaign: Standing, deadline: Deadline
) -> list[Event] | None:
    if campaign.status != CampaignStatus.STOPPING and campaign.reopen is not None:
        await reopening.reopen(ledger, campaign.id, campaign.reopen, deadline)
        return []
    stopped = campaign.status == CampaignStatus.STOPPING and await stopping.stop(ledger, campaign.id, deadline)
    if deadline.was_met:
        return []
    result = await closing.close(ledger, campaign.id)
    if isinstance(result, CampaignFinished):
        metrics.closed.labels(result.status).inc()
        return [result]
    return [_told(metrics, repair) for repair in result] or ([] if stopped else None)


def _told(metrics: DispatcherMetrics, repair: Repair) -> Event:
    reason = repair.reason.value
    metrics.repairs.labels(reason).inc()
    log.warning(
        "batch.repaired",
        campaign_id=str(repair.campaign_id),
        batch_id=repair.batch_id,
        generation=repair.generation,
        reason=reason,
    )
    return BatchRequeued(
        batch_id=repair.batch_id, campaign_id=repair.campaign_id, generation=repair.generation, reason=reason
    )


async def _note(ledger: Ledger, campaign: Standing, text: str) -> None:
    async with ledger.write() as connection:
        await timeline.record(connection, campaign.id, "yielded", text)
