"""What a turn looks at first: the campaigns that are not closed, what is out of each, and who could send.

Every question is answered by an index whose size does not grow with what is done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import campaigns, instances, rate_limits
from shared.ledger.batches import holds_slot, in_state
from shared.ledger.database import db_now
from shared.ledger.models import Batch, Campaign, RateLimit
from shared.ledger.states import LIVE, BatchState, CampaignStatus

AHEAD_SECONDS = 1.5
"""A batch is released so long before it is due: more than a clock turn, so that a limited campaign has no gaps."""

UNCLAIMED_SECONDS = 0.5
"""A ticket that nobody has taken for so long found no free slot: a limited batch of it will begin late."""

LATE_SECONDS = 0.25
"""A limited batch that was claimed so long after it was due ends as much later."""


@dataclass(slots=True)
class Standing:
    """How one campaign stands. `out`: batches released or being sent, of which `released` wait for a sender and
    `beside` are being sent and hold no slot; `due`: a waiting batch is due; `unheld`: batches are live that no sender
    holds; `live`: any are; `uncut`: recipients are left that no batch covers. Of a limited one, `begins_late`: a batch
    waits for a free slot; `ends_in`: seconds until a batch that has begun late will have taken its time."""

    id: UUID
    project_id: UUID
    status: str
    reopen: str | None
    priority: int
    emails_per_second: float | None
    total: int
    cursor: int
    overdue: bool
    out: int
    released: int
    due: bool
    unheld: bool
    live: bool
    uncut: bool
    beside: int = 0
    begins_late: bool = False
    ends_in: float | None = None

    @property
    def may_send(self) -> bool:
        return self.status == CampaignStatus.SENDING and self.reopen is None and not self.overdue

    @property
    def is_spent(self) -> bool:
        """Nothing is left to hand out or to wait for."""
        return not (self.live or self.uncut)

    @property
    def needs_turn(self) -> bool:
        """There is longer work on it than one short transaction: stopping, reopening, closing."""
        if self.status == CampaignStatus.STOPPING:
            return self.unheld or self.uncut or self.is_spent
        if self.status == CampaignStatus.SENDING:
            return self.reopen is not None or self.is_spent
        return self.status == CampaignStatus.PAUSED and self.reopen is not None


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate limit that exists; in `free_in` seconds the next email may leave. Batches that begin late push back those
    that follow, so that shares sum to the limit: `pushed_back` is infinite while nobody knows when one will begin."""

    emails_per_second: float
    free_in: float
    pushed_back: float = 0.0


@dataclass(frozen=True, slots=True)
class Survey:
    """`slots`: batches the senders can hold at once, as far as anyone knows. `limits` by scope."""

    campaigns: Sequence[Standing]
    slots: int
    limits: Mapping[str, Limit]

    @property
    def out(self) -> int:
        """Batches of all campaigns that hold a slot or want one: released, or being sent as fast as they can be."""
        return sum(campaign.out - campaign.beside for campaign in self.campaigns)


async def survey(connection: AsyncConnection, *, lost_seconds: float) -> Survey:
    """Looks at everything that a turn may act on."""
    rows = await connection.execute(_CAMPAIGNS)
    found = [Standing(**row) for row in rows.mappings()]
    slots = await instances.live_slots(connection, lost_seconds=lost_seconds)
    # Where no heartbeat comes through, what is being sent under a lease tells of as many slots.
    leased = await connection.execute(
        select(func.count()).select_from(Batch).where(holds_slot(), col(Batch.lease_until) > db_now())
    )
    limits = await connection.execute(
        select(col(RateLimit.scope), col(RateLimit.emails_per_second), col(RateLimit.free_at) - db_now()).where(
            col(RateLimit.scope).in_({scope for campaign in found for scope in scopes(campaign)})
        )
    )
    return Survey(
        found,
        max(slots, leased.scalar_one()),
        {scope: Limit(rate, free_in, _pushed_back(found, scope)) for scope, rate, free_in in limits},
    )


def _pushed_back(campaigns: Sequence[Standing], scope: str) -> float:
    """Seconds for which batches that are late take up a limit beyond what was reserved."""
    under = [campaign for campaign in campaigns if scope in scopes(campaign)]
    if any(campaign.begins_late for campaign in under):
        return math.inf
    return max((campaign.ends_in for campaign in under if campaign.ends_in is not None), default=0.0)


def scopes(campaign: Standing) -> tuple[str, ...]:
    """The limits a campaign may be under, in the one order in which all lock them."""
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
        _count(in_state(BatchState.SENDING), ~holds_slot()).label("beside"),
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
