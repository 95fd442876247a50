"""What a round looks at: the campaigns on its agenda, with their batches and limits.

Every query is answered by an index of what is to be done: it grows neither with finished work nor with campaigns that
only wait.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Uuid,
    bindparam,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlmodel import col

from services.dispatcher.agenda import AGAIN_SECONDS
from shared.ledger import campaigns, instances, rate_limits, rows
from shared.ledger.batches import LIMITED_PER_PLACE, in_state, is_nearly_done, takes_place
from shared.ledger.database import Ledger, db_now, db_now_once
from shared.ledger.models import Batch, Campaign
from shared.ledger.outbox_tables import Outbox
from shared.ledger.rate_limits import Limit
from shared.ledger.states import LIVE, BatchState, CampaignStatus

AHEAD_SECONDS = 5.0
"""The next batch under a limit is released when the emails that are out take less than this long at its rate: several
ticks, and the usual replies, so that there are no gaps."""

DUE_AT_ONCE = 200
"""Campaigns of one kind that a round starts, stops, expires or reopens; the next round goes on."""

LONGEST_REST_SECONDS = 60.0
"""A campaign whose cap is used up is looked at again after this time, because the cap may have been raised."""

AT_ONCE = 256
"""Campaigns in one statement."""

T = TypeVar("T")


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
    due_in: float | None  # seconds until a waiting batch may be released; None: none waits
    unheld: bool  # a live batch has no owner
    live: bool  # it has a live batch
    uncut: bool  # recipients are left that no batch covers
    out: int = 0  # batches released or being sent
    released: int = 0  # batches released and not claimed
    beside: int = 0  # batches being sent that take no place of a sender
    emails_out: int = 0  # open recipients of the batches that are out, but for the last ones of each

    @property
    def places(self) -> int:
        """Batches that take a place of a sender, or wait for one."""
        return self.out - self.beside

    @property
    def due(self) -> bool:
        """A waiting batch may be released."""
        return self.due_in is not None and self.due_in <= 0

    @property
    def may_release(self) -> bool:
        """There is something to release, if its limits leave room."""
        return self.may_send and (self.due or self.uncut)

    @property
    def may_send(self) -> bool:
        return self.status == CampaignStatus.SENDING and self.reopen is None and not self.overdue

    @property
    def is_spent(self) -> bool:
        """Nothing is left to release or to wait for."""
        return not (self.live or self.uncut)

    @property
    def may_close(self) -> bool:
        """It was sent, and only has to be closed."""
        return self.status == CampaignStatus.SENDING and self.reopen is None and self.is_spent

    @property
    def needs_job(self) -> bool:
        """It has to be stopped, reopened or closed, which takes more than one short transaction."""
        if self.status == CampaignStatus.STOPPING:
            return self.unheld or self.uncut or self.is_spent
        if self.status == CampaignStatus.SENDING:
            return self.reopen is not None or self.may_close
        return self.status == CampaignStatus.PAUSED and self.reopen is not None


@dataclass(slots=True)
class Survey:
    """What a round acts on."""

    campaigns: dict[UUID, OpenCampaign]  # those that it looks at, all with batches out among them
    capacity: int  # batches that the live senders can hold at once
    limits: dict[str, Limit]  # of campaigns and projects, by scope
    now: float = 0.0  # by the database's clock

    @property
    def out(self) -> int:
        """Batches of all campaigns that take a place of a sender, or wait for one."""
        return sum(campaign.places for campaign in self.campaigns.values())

    @property
    def released(self) -> int:
        """Batches of all campaigns that no sender has claimed yet."""
        return sum(campaign.released for campaign in self.campaigns.values())

    @property
    def limited_out(self) -> int:
        """Those of campaigns with a rate limit."""
        return sum(one.places for one in self.campaigns.values() if one.places and self.rate(one) is not None)

    def rate(self, campaign: OpenCampaign) -> float | None:
        """The lowest rate that a campaign is under; None: it has none."""
        rates = [limit.emails_per_second for limit in self._limits(campaign)] + [campaign.emails_per_second]
        return min((rate for rate in rates if rate is not None), default=None)

    def lacks_limit(self, campaign: OpenCampaign) -> bool:
        """Its own rate is not among the limits that senders keep."""
        return campaign.emails_per_second is not None and rate_limits.campaign_scope(campaign.id) not in self.limits

    def has_room(self, campaign: OpenCampaign) -> bool:
        """Its limits leave room for another batch: what is out is soon used up, and no cap is."""
        rate = self.rate(campaign)
        if rate is not None and campaign.emails_out > rate * AHEAD_SECONDS:
            return False
        return all(limit.full(self.now) is None for limit in self._limits(campaign))

    def room_in(self, campaign: OpenCampaign) -> float:
        """Seconds after which to look whether its limits leave room again."""
        full = [until[0] for limit in self._limits(campaign) if (until := limit.full(self.now)) is not None]
        return min(max(full), LONGEST_REST_SECONDS) if full else AGAIN_SECONDS

    @property
    def beside_is_full(self) -> bool:
        """Senders hold as many batches under limits as they can without keeping others waiting. If none is known to be
        alive, one may be."""
        beside = sum(campaign.beside for campaign in self.campaigns.values())
        return beside >= LIMITED_PER_PLACE * max(self.capacity, 1)

    def most_released(self) -> OpenCampaign | None:
        """The campaign without a rate limit that can spare a released batch: it has most batches out, two at least."""
        found = [one for one in self.campaigns.values() if one.released and one.places > 1 and self.rate(one) is None]
        return max(found, key=lambda one: one.places, default=None)

    def _limits(self, campaign: OpenCampaign) -> Sequence[Limit]:
        return [self.limits[scope] for scope in scopes(campaign) if scope in self.limits]


@dataclass(frozen=True, slots=True)
class Out:
    """The batches of a campaign that are released or being sent."""

    out: int
    released: int
    beside: int
    emails_out: int


NONE_OUT = Out(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to look at, without a look at any campaign."""

    due: set[UUID]  # to be started, stopped, expired or reopened
    out: Mapping[UUID, Out]  # the campaigns with batches that are released or being sent
    capacity: int  # batches that the live senders can hold at once
    any_unplaced: bool  # a row of the outbox has no position
    lap: Mapping[UUID, bool]  # the next campaigns of the lap, and whether there is something to do


async def find(ledger: Ledger, lost_seconds: float, lap_after: UUID | None, lap_most: int) -> Found:
    """At most DUE_AT_ONCE campaigns of each kind that are due; what is out; and the next `lap_most` of a lap over those
    being sent. Senders that were not heard from within `lost_seconds` do not count.

    One or two statements, because an idle dispatcher executes nothing else every second."""
    due, out = set[UUID](), dict[UUID, Out]()
    capacity = leased = 0
    any_unplaced = False
    for found_id, what, *numbers in await ledger.read_alone(_FIND, {"lost_seconds": lost_seconds}):
        if what == _IS_DUE:
            due.add(found_id)
        elif what == _IS_OUT:
            out[found_id] = Out(*map(int, numbers[:4]))
            leased += numbers[4]
        elif what == _IS_CAPACITY:
            capacity = int(numbers[0])
        else:
            any_unplaced = True
    lap: Mapping[UUID, bool] = {}
    if lap_most:
        following = await ledger.read_alone(_LAP, {"after": lap_after or UUID(int=0), "most": lap_most})
        lap = {row[0]: bool(row[1]) for row in following}
    # If no heartbeats arrive, batches being sent under a lease show that as many places exist.
    return Found(due, out, max(capacity, leased), any_unplaced, lap)


async def look_at(
    ledger: Ledger, campaign_ids: Collection[UUID], out: Mapping[UUID, Out]
) -> tuple[dict[UUID, OpenCampaign], dict[str, Limit], float]:
    """Those of the campaigns that are not closed, their limits, and the database's clock."""
    found: dict[UUID, OpenCampaign] = {}
    now = 0.0
    for ids in _groups(sorted(campaign_ids)):
        for row in await ledger.read_alone(_CAMPAIGNS[ledger.dialect], {"ids": ids}):
            columns = row._asdict()
            now = columns.pop("now")
            known = out.get(row.id, NONE_OUT)
            found[row.id] = OpenCampaign(
                **columns, out=known.out, released=known.released, beside=known.beside, emails_out=known.emails_out
            )
    limits: dict[str, Limit] = {}
    for wanted in _groups(sorted({scope for campaign in found.values() for scope in scopes(campaign)})):
        limits |= await rate_limits.read_alone(ledger, wanted)
    return found, limits, now


def _groups(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """At most AT_ONCE each. The last value is repeated up to a power of two, so that there are only a few different
    statements for the database to prepare."""
    for start in range(0, len(values), AT_ONCE):
        group = values[start : start + AT_ONCE]
        length = 1 << (len(group) - 1).bit_length()
        yield [*group, *[group[-1]] * (length - len(group))]


def scopes(campaign: OpenCampaign) -> tuple[str, ...]:
    """The scopes of the limits that may apply to a campaign."""
    project = rate_limits.project_scope(campaign.project_id)
    return (project,) if campaign.emails_per_second is None else (rate_limits.campaign_scope(campaign.id), project)


def _has_batch(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """A batch of `campaign` meets the conditions.

    Not an EXISTS: PostgreSQL may read the live batches of all campaigns for it, to look these ones up among them."""
    first = select(col(Batch.id)).where(col(Batch.campaign_id) == col(Campaign.id), *conditions).limit(1)
    return first.correlate(Campaign).scalar_subquery().is_not(None)


_CAMPAIGNS = rows.among(
    col(Campaign.id),
    Uuid,
    "ids",
    select(
        db_now().label("now"),
        col(Campaign.id),
        col(Campaign.project_id),
        col(Campaign.status),
        col(Campaign.reopen),
        col(Campaign.priority),
        col(Campaign.emails_per_second),
        col(Campaign.total),
        col(Campaign.cursor),
        func.coalesce(col(Campaign.deliver_by) <= db_now(), False).label("overdue"),
        (
            select(func.min(col(Batch.due_at)) - db_now())
            .where(col(Batch.campaign_id) == col(Campaign.id), in_state(BatchState.WAITING))
            .correlate(Campaign)
            .scalar_subquery()
            .label("due_in")
        ),
        _has_batch(in_state(BatchState.WAITING, BatchState.RELEASED)).label("unheld"),
        _has_batch(in_state(*LIVE)).label("live"),
        campaigns.has_uncut().label("uncut"),
    )
    .where(
        campaigns.not_closed(),
        or_(
            col(Campaign.status) != CampaignStatus.SCHEDULED.value,
            col(Campaign.scheduled_at) <= db_now(),
            col(Campaign.deliver_by) <= db_now(),
        ),
    )
    .where,
)


_IS_DUE, _IS_OUT, _IS_CAPACITY, _IS_UNPLACED = range(4)
_NUMBERS = 5
"""Columns beside the id and what it is."""


def _find() -> Any:
    starts, ends = col(Campaign.scheduled_at), col(Campaign.deliver_by)
    is_reopening = col(Campaign.reopen).is_not(None) & (col(Campaign.status) != CampaignStatus.STOPPING.value)
    kinds: list[tuple[ColumnElement[bool], Any]] = [
        (campaigns.in_status(CampaignStatus.QUEUED), col(Campaign.id)),
        (campaigns.in_status(CampaignStatus.STOPPING), col(Campaign.id)),
        (campaigns.in_status(CampaignStatus.SCHEDULED) & (starts <= db_now_once()), starts),
        (campaigns.not_closed() & (ends <= db_now_once()), ends),
        (is_reopening, col(Campaign.id)),
    ]
    due = [
        select(col(Campaign.id).label("id")).where(condition).order_by(order).limit(DUE_AT_ONCE).subquery()
        for condition, order in kinds
    ]
    unplaced = select(col(Outbox.project_id).label("id")).where(col(Outbox.position).is_(None)).limit(1).subquery()
    capacity = instances.LIVE_CAPACITY.scalar_subquery()
    return union_all(
        *(_tagged(part.c.id, _IS_DUE) for part in due),
        _tagged(col(Batch.campaign_id), _IS_OUT, *_batches_out())
        .where(in_state(BatchState.RELEASED, BatchState.SENDING))
        .group_by(col(Batch.campaign_id)),
        _tagged(null(), _IS_CAPACITY, capacity),
        _tagged(unplaced.c.id, _IS_UNPLACED),
    )


def _tagged(found_id: Any, what: int, *numbers: ColumnElement[int]) -> Select[*tuple[Any, ...]]:
    missing: list[ColumnElement[int]] = [literal_column("0")] * (_NUMBERS - len(numbers))
    return select(found_id, literal_column(str(what)), *numbers, *missing)


def _batches_out() -> Sequence[ColumnElement[int]]:
    """Of one campaign: the members of Out, and how many batches being sent under a lease take a place of a sender."""
    is_released, is_sending = (
        col(Batch.state) == BatchState.RELEASED.value,
        col(Batch.state) == BatchState.SENDING.value,
    )
    open_rows = col(Batch.pending) + col(Batch.deferred)
    return (
        func.count(),
        func.count().filter(is_released),
        func.count().filter(is_sending, ~takes_place()),
        func.coalesce(func.sum(open_rows).filter(~is_nearly_done()), 0),
        func.count().filter(takes_place(), col(Batch.lease_until) > db_now()),
    )


_FIND = _find()

_LAP = (
    select(
        col(Campaign.id),
        or_(
            _has_batch(in_state(BatchState.WAITING), col(Batch.due_at) <= db_now_once()),
            ~_has_batch(in_state(*LIVE)),
            campaigns.has_uncut(),
        ),
    )
    .where(campaigns.in_status(CampaignStatus.SENDING), col(Campaign.id) > bindparam("after", type_=Uuid))
    .order_by(col(Campaign.id))
    .limit(bindparam("most", type_=Integer))
)
