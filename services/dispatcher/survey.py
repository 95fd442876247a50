"""What a round looks at first: the open campaigns, their batches and rate limits, and the capacity of the senders.

Every query is answered by an index that does not grow with finished work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import campaigns, instances, rate_limits
from shared.ledger.batches import LIMITED_PER_PLACE, in_state, is_nearly_done, takes_place
from shared.ledger.database import clock, db_now
from shared.ledger.models import Batch, Campaign
from shared.ledger.rate_limits import Limit
from shared.ledger.states import LIVE, BatchState, CampaignStatus

AHEAD_SECONDS = 5.0
"""The next batch under a limit is released when the emails that are out take less than this long at its rate: several
ticks, and the usual replies, so that there are no gaps."""


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
    emails_out: int = 0  # open recipients of the batches that are out, but for the last ones of each

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
class Survey:
    """What a round acts on."""

    campaigns: Sequence[OpenCampaign]
    capacity: int  # batches that the live senders can hold at once
    limits: Mapping[str, Limit]  # of campaigns and projects, by scope
    now: float = 0.0  # by the database's clock

    @property
    def out(self) -> int:
        """Batches of all campaigns that take a place of a sender, or wait for one."""
        return sum(campaign.out - campaign.beside for campaign in self.campaigns)

    def rate(self, campaign: OpenCampaign) -> float | None:
        """The lowest rate that a campaign is under; None: it has none."""
        rates = [limit.emails_per_second for limit in self._limits(campaign)] + [campaign.emails_per_second]
        return min((rate for rate in rates if rate is not None), default=None)

    def has_room(self, campaign: OpenCampaign) -> bool:
        """Its limits leave room for another batch: what is out is soon used up, and no cap is."""
        rate = self.rate(campaign)
        if rate is not None and (campaign.emails_out > rate * AHEAD_SECONDS or self._beside_is_full):
            return False
        return all(limit.full(self.now) is None for limit in self._limits(campaign))

    @property
    def _beside_is_full(self) -> bool:
        """Senders hold as many batches under limits as they can without keeping others waiting."""
        return sum(campaign.beside for campaign in self.campaigns) >= LIMITED_PER_PLACE * self.capacity

    def _limits(self, campaign: OpenCampaign) -> Sequence[Limit]:
        return [self.limits[scope] for scope in scopes(campaign) if scope in self.limits]


async def survey(connection: AsyncConnection, *, lost_seconds: float) -> Survey:
    """Looks at everything that a round may act on."""
    rows = await connection.execute(_CAMPAIGNS)
    found = [OpenCampaign(**row) for row in rows.mappings()]
    capacity = await instances.live_capacity(connection, lost_seconds=lost_seconds)
    # If no heartbeats arrive, batches being sent under a lease show that as many places exist.
    leased = await connection.execute(
        select(func.count()).select_from(Batch).where(takes_place(), col(Batch.lease_until) > db_now())
    )
    limits = await rate_limits.read(connection, {scope for campaign in found for scope in scopes(campaign)})
    return Survey(found, max(capacity, leased.scalar_one()), limits, await clock(connection))


def scopes(campaign: OpenCampaign) -> tuple[str, ...]:
    """The scopes of the limits that may apply to a campaign."""
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
        (
            select(func.coalesce(func.sum(col(Batch.pending) + col(Batch.deferred)), 0))
            .where(
                col(Batch.campaign_id) == col(Campaign.id),
                in_state(BatchState.RELEASED, BatchState.SENDING),
                ~is_nearly_done(),
            )
            .correlate(Campaign)
            .scalar_subquery()
            .label("emails_out")
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
