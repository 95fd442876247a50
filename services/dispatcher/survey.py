"""What a round looks at first: the open campaigns, their batches and rate limits, and the capacity of the senders.

Every query is answered by an index that does not grow with finished work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import campaigns, instances, rate_limits
from shared.ledger.batches import in_state, takes_place
from shared.ledger.database import db_now
from shared.ledger.models import Batch, Campaign, RateLimit
from shared.ledger.states import LIVE, BatchState, CampaignStatus

AHEAD_SECONDS = 1.5
"""A batch with a rate limit is released this long before it may start: more than a tick, so that there are no gaps."""

UNCLAIMED_SECONDS = 0.5
"""A batch with a rate limit that is unclaimed for this long found no free sender, and will start late."""

LATE_SECONDS = 0.25
"""Seconds after `due_at` from which a claim counts as late. A limited batch that starts late also ends late."""


@dataclass(slots=True)
class OpenCampaign:
    """A campaign that is scheduled or under way, as a round sees it."""

    id: UUID
    project_id: UUID
    status: str
    reopen: str | None  # recipients to reopen; see reopening.REQUESTS
    priority: int
    emails_per_second: float | None  # its own rate limit
    total: int  # recipients
    cursor: int
    overdue: bool  # past its deliver_by
    out: int  # batches released or being sent
    released: int  # batches released and not claimed
    due: bool  # a waiting batch may be released
    unheld: bool  # a live batch has no owner
    live: bool  # it has a live batch
    uncut: bool  # recipients are left that no batch covers
    beside: int = 0  # batches being sent that take no place of a sender
    begins_late: bool = False  # a batch with a rate limit waits for a sender
    ends_in: float | None = None  # seconds until the last batch that started late has used up its time

    @property
    def may_send(self) -> bool:
        return self.status == CampaignStatus.SENDING and self.reopen is None and not self.overdue

    @property
    def is_spent(self) -> bool:
        """Nothing is left to release or to wait for."""
        return not (self.live or self.uncut)

    @property
    def needs_job(self) -> bool:
        """It has to be stopped, reopened or closed, which takes more than one short transaction."""
        if self.status == CampaignStatus.STOPPING:
            return self.unheld or self.uncut or self.is_spent
        if self.status == CampaignStatus.SENDING:
            return self.reopen is not None or self.is_spent
        return self.status == CampaignStatus.PAUSED and self.reopen is not None


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate limit. Batches that start late delay those that follow, so that all of them together keep the limit."""

    emails_per_second: float
    free_in: float  # seconds until the next email may leave
    pushed_back: float = 0.0  # seconds by which late batches delay the next; infinite until they have started


@dataclass(frozen=True, slots=True)
class Survey:
    """What a round acts on."""

    campaigns: Sequence[OpenCampaign]
    capacity: int  # batches that the live senders can hold at once
    limits: Mapping[str, Limit]  # by scope

    @property
    def out(self) -> int:
        """Batches of all campaigns that take a place of a sender, or wait for one."""
        return sum(campaign.out - campaign.beside for campaign in self.campaigns)


async def survey(connection: AsyncConnection, *, lost_seconds: float) -> Survey:
    """Looks at everything that a round may act on."""
    rows = await connection.execute(_CAMPAIGNS)
    found = [OpenCampaign(**row) for row in rows.mappings()]
    capacity = await instances.live_capacity(connection, lost_seconds=lost_seconds)
    # If no heartbeats arrive, batches being sent under a lease show that as many places exist.
    leased = await connection.execute(
        select(func.count()).select_from(Batch).where(takes_place(), col(Batch.lease_until) > db_now())
    )
    limits = await connection.execute(
        select(col(RateLimit.scope), col(RateLimit.emails_per_second), col(RateLimit.free_at) - db_now()).where(
            col(RateLimit.scope).in_({scope for campaign in found for scope in scopes(campaign)})
        )
    )
    return Survey(
        found,
        max(capacity, leased.scalar_one()),
        {scope: Limit(rate, free_in, _pushed_back(found, scope)) for scope, rate, free_in in limits},
    )


def _pushed_back(campaigns: Sequence[OpenCampaign], scope: str) -> float:
    """Seconds for which late batches use a limit beyond what was reserved."""
    under = [campaign for campaign in campaigns if scope in scopes(campaign)]
    if any(campaign.begins_late for campaign in under):
        return math.inf
    return max((campaign.ends_in for campaign in under if campaign.ends_in is not None), default=0.0)


def scopes(campaign: OpenCampaign) -> tuple[str, ...]:
    """The scopes of the rate limits that may apply to a campaign, in the order in which they are locked."""
    project = rate_limits.project_scope(campaign.project_id)
    return (project,) if campaign.emails_per_second is None else (rate_limits.campaign_scope(campaign.id), project)


def _batches(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(col(Batch.campaign_id) == col(Campaign.id), *conditions)


def _count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    counted = select(func.count()).select_from(Batch).where(col(Batch.campaign_id) == col(Campaign.id))
    return counted.where(*conditions).correlate(Campaign).scalar_subquery()


_CAMPAIGNS = (
    select(
        col(Campaign.id),
        col(Campaign.project_id),
        col(Campaign.status),
        col(Campaign.reopen),
        col(Campaign.priority),
        col(Campaign.emails_per_second),
        col(Campaign.total),
        col(Campaign.cursor),
        func.coalesce(col(Campaign.deliver_by) <= db_now(), False).label("overdue"),
        _count(in_state(BatchState.RELEASED, BatchState.SENDING)).label("out"),
        _count(in_state(BatchState.RELEASED)).label("released"),
        _count(in_state(BatchState.SENDING), ~takes_place()).label("beside"),
        _batches(in_state(BatchState.WAITING), col(Batch.due_at) <= db_now()).label("due"),
        _batches(in_state(BatchState.WAITING, BatchState.RELEASED)).label("unheld"),
        _batches(in_state(*LIVE)).label("live"),
        campaigns.has_uncut().label("uncut"),
        _batches(
            in_state(BatchState.RELEASED),
            col(Batch.span_seconds).is_not(None),
            col(Batch.released_at) < db_now() - UNCLAIMED_SECONDS,
        ).label("begins_late"),
        (
            select(func.max(col(Batch.claimed_at) + col(Batch.span_seconds)) - db_now())
            .where(
                col(Batch.campaign_id) == col(Campaign.id),
                in_state(BatchState.SENDING),
                col(Batch.claimed_at) > col(Batch.due_at) + LATE_SECONDS,
            )
            .correlate(Campaign)
            .scalar_subquery()
            .label("ends_in")
        ),
    )
    .where(
        campaigns.not_closed(),
        or_(
            col(Campaign.status) != CampaignStatus.SCHEDULED.value,
            col(Campaign.scheduled_at) <= db_now(),
            col(Campaign.deliver_by) <= db_now(),
        ),
    )
    .order_by(col(Campaign.id))
)
