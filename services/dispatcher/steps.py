"""The steps of campaigns before their batches are released: scheduled start, start, expiry, pause, closing, jobs."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from services.dispatcher import closing, lifecycle
from services.dispatcher.agenda import AGAIN_SECONDS, Agenda
from services.dispatcher.fairness import Fairness
from services.dispatcher.jobs import Jobs
from services.dispatcher.metrics import DispatcherMetrics
from services.dispatcher.survey import OpenCampaign, Survey
from shared import logs
from shared.events import Event
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.states import CampaignStatus

TOGETHER_RECIPIENTS = 5000
"""Recipients of campaigns that are started or closed in one transaction, so that it stays short."""

T = TypeVar("T")
log = logs.get()


class Steps:
    """An error on one campaign affects no other: it is logged, and a later round tries again."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: DispatcherMetrics,
        agenda: Agenda,
        fairness: Fairness,
        jobs: Jobs,
        publish: Callable[[Event], None],
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._agenda = agenda
        self._fairness = fairness
        self._jobs = jobs
        self._publish = publish

    async def take(self, seen: Survey, cause: str) -> bool:
        """Takes the short steps of all campaigns, and starts jobs on those that need more."""
        found = list(seen.campaigns.values())
        stepped = any([await self._advance(campaign) for campaign in found])
        queued = [one for one in found if one.status == CampaignStatus.QUEUED and not one.overdue]
        for campaign_id in await self._together(partial(lifecycle.start, self._ledger), queued):
            seen.campaigns[campaign_id].status = CampaignStatus.SENDING
            stepped = True
        spent = [one for one in found if one.may_close and one.total <= closing.SMALL and not self._jobs.has(one.id)]
        for closed in await self._together(partial(closing.close_small, self._ledger), spent):
            self._metrics.closed.labels(closed.status).inc()
            self._fairness.forget(closed.campaign_id)
            self._publish(closed)
            del seen.campaigns[closed.campaign_id]
            stepped = True
        for campaign in seen.campaigns.values():
            if campaign.needs_job and self._jobs.offer(campaign, cause):
                stepped = True
        return stepped

    async def _advance(self, campaign: OpenCampaign) -> bool:
        """Takes the short steps of one campaign that come before its start. An error affects no other campaign."""
        stepped = False
        try:
            while (status := await lifecycle.advance(self._ledger, campaign)) is not None:
                stepped = True
                campaign.status = status
        except Exception as error:  # noqa: BLE001 - see log_error
            log_error("campaign.failed", error, campaign_id=str(campaign.id))
            self._agenda.look_in(campaign.id, AGAIN_SECONDS)
        return stepped

    async def _together(
        self, step: Callable[[Collection[UUID]], Awaitable[Iterable[T]]], wanted: Sequence[OpenCampaign]
    ) -> Sequence[T]:
        """Takes a step with many campaigns in one transaction. If that fails, with each alone: an error on one affects
        no other."""
        done: list[T] = []
        for group in _groups(wanted):
            try:
                done += await step([campaign.id for campaign in group])
            except Exception as error:  # noqa: BLE001 - see log_error
                if len(group) > 1 and not is_unavailable(error):
                    for campaign in group:
                        done += await self._together(step, [campaign])
                    continue
                log_error("campaigns.failed", error, campaign_ids=",".join(str(campaign.id) for campaign in group))
                for campaign in group:
                    self._agenda.look_in(campaign.id, AGAIN_SECONDS)
        return done


def _groups(wanted: Sequence[OpenCampaign]) -> Iterator[Sequence[OpenCampaign]]:
    """Of at most TOGETHER_RECIPIENTS together, or of one campaign."""
    group: list[OpenCampaign] = []
    for campaign in wanted:
        if group and sum(one.total for one in group) + campaign.total > TOGETHER_RECIPIENTS:
            yield group
            group = []
        group.append(campaign)
    if group:
        yield group


def log_error(what: str, error: Exception, **known: str) -> None:
    """Logs an error that ends one step and nothing else: a later round tries again."""
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), **known)
    else:
        log.error(what, exc_info=error, **known)
