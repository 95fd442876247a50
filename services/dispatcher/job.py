"""A job: longer work on one campaign (stopping, reopening, closing) between a soft and a hard deadline."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Done:
    """What a job has achieved."""

    events: Sequence[Event] = ()  # to publish
    is_over: bool = True  # False: it has yielded to others, and is to be continued
    moved: bool = True  # False: nothing could be done yet; the clock tries again


async def run_job(
    settings: DispatcherSettings,
    ledger: Ledger,
    metrics: DispatcherMetrics,
    campaign: OpenCampaign,
    must_yield: Callable[[], bool],
) -> Done:
    """Works on a campaign until all is done, the soft deadline passes, or it must yield to others.

    At the hard deadline the open transaction is rolled back, and a later round starts another job."""
    deadline = Deadline(settings.turn_soft_seconds, must_yield)
    limit = asyncio.timeout(settings.turn_hard_seconds)
    try:
        with metrics.job_seconds.time():
            async with limit:
                done = await _work(settings, ledger, metrics, campaign, deadline)
    except TimeoutError:
        if limit.expired():
            metrics.jobs_abandoned.inc()
            log.error("job.abandoned", campaign_id=str(campaign.id), seconds=settings.turn_hard_seconds)
            why = f"A job was abandoned after {settings.turn_hard_seconds:g} s (VASHSENDER_TURN_HARD_SECONDS)"
        else:
            log.error("job.too_slow", campaign_id=str(campaign.id), seconds=settings.transaction_seconds)
            why = (
                f"The database did not finish the smallest step of a job within {settings.transaction_seconds:g} s"
                " (VASHSENDER_TRANSACTION_SECONDS)"
            )
        await _note(ledger, campaign, f"{why}; it is tried again")
        return Done(moved=False)
    if deadline.cut_short and not deadline.yielded:
        await _note(ledger, campaign, f"A job yielded after {settings.turn_soft_seconds:g} s; the next one continues")
    return done


async def _work(
    settings: DispatcherSettings,
    ledger: Ledger,
    metrics: DispatcherMetrics,
    campaign: OpenCampaign,
    deadline: Deadline,
) -> Done:
    if campaign.status != CampaignStatus.STOPPING and campaign.reopen is not None:
        await reopening.reopen(ledger, campaign.id, campaign.reopen, deadline)
        return Done(is_over=not deadline.yielded)
    stopped = campaign.status == CampaignStatus.STOPPING and await stopping.stop(ledger, campaign.id, deadline)
    if deadline.cut_short:
        return Done(is_over=not deadline.yielded)
    result = await closing.close(ledger, campaign.id, settings.list_breaker_share, deadline)
    if isinstance(result, CampaignFinished):
        metrics.closed.labels(result.status).inc()
        return Done([result])
    if deadline.cut_short:
        return Done(is_over=not deadline.yielded)
    return Done([_report(metrics, repair) for repair in result], moved=stopped or bool(result))


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
