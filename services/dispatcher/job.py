"""A job: longer work on one campaign (stopping, reopening, closing) between a soft and a hard deadline."""

import asyncio

from services.dispatcher import closing, reopening, stopping
from services.dispatcher.deadline import Deadline
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.survey import OpenCampaign
from shared import logs
from shared.events import BatchRequeued, CampaignFinished, Event
from shared.ledger import timeline
from shared.ledger.database import Ledger
from shared.ledger.repair import Repair
from shared.ledger.states import CampaignStatus
from shared.settings import DispatcherSettings

log = logs.get()


async def run_job(
    settings: DispatcherSettings, ledger: Ledger, metrics: DispatcherMetrics, campaign: OpenCampaign
) -> list[Event] | None:
    """Works on a campaign until all is done or the soft deadline passes. Returns the events to publish, or None if
    nothing could be done yet.

    At the hard deadline the open transaction is rolled back, and a later round starts another job."""
    deadline = Deadline(settings.turn_soft_seconds)
    try:
        with metrics.job_seconds.time():
            async with asyncio.timeout(settings.turn_hard_seconds):
                events = await _work(settings, ledger, metrics, campaign, deadline)
    except TimeoutError:
        metrics.jobs_abandoned.inc()
        log.error("job.abandoned", campaign_id=str(campaign.id), seconds=settings.turn_hard_seconds)
        await _note(ledger, campaign, f"A job was abandoned after {settings.turn_hard_seconds:g} s and is tried again")
        return None
    if deadline.cut_short:
        await _note(ledger, campaign, f"A job yielded after {settings.turn_soft_seconds:g} s; the next one continues")
    return events


async def _work(
    settings: DispatcherSettings,
    ledger: Ledger,
    metrics: DispatcherMetrics,
    campaign: OpenCampaign,
    deadline: Deadline,
) -> list[Event] | None:
    if campaign.status != CampaignStatus.STOPPING and campaign.reopen is not None:
        await reopening.reopen(ledger, campaign.id, campaign.reopen, deadline)
        return []
    stopped = campaign.status == CampaignStatus.STOPPING and await stopping.stop(ledger, campaign.id, deadline)
    if deadline.cut_short:
        return []
    result = await closing.close(ledger, campaign.id, settings.list_breaker_share)
    if isinstance(result, CampaignFinished):
        metrics.closed.labels(result.status).inc()
        return [result]
    return [_report(metrics, repair) for repair in result] or ([] if stopped else None)


def _report(metrics: DispatcherMetrics, repair: Repair) -> Event:
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


async def _note(ledger: Ledger, campaign: OpenCampaign, text: str) -> None:
    async with ledger.write() as connection:
        await timeline.record(connection, campaign.id, "yielded", text)
