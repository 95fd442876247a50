"""Compares the batches of a campaign with its recipients, and repairs every difference.

It counts again, and gives open recipients without a live batch a live batch. It never marks a recipient as sent and
never opens a closed campaign. Repeating it, or running it twice at once, is harmless.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import batches, campaigns, rollups, timeline
from shared.ledger.counts import STATUSES, Counts
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Recipient
from shared.ledger.states import LIVE, OPEN, UNDER_WAY, BatchState

BATCHES_AT_ONCE = 50
ROWS_IN_NEW_BATCH = 500


class Reason(StrEnum):
    COUNTS = "counts_disagreed"
    CLOSED_BATCH = "open_rows_in_closed_batch"
    NO_BATCH = "rows_without_batch"


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair of a batch."""

    reason: Reason
    campaign_id: UUID
    batch_id: int
    generation: int  # after the repair
    text: str  # for the timeline


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a campaign that was compared."""

    until: int  # the last recipient id
    batches: int
    repairs: Sequence[Repair]


@dataclass(frozen=True, slots=True)
class _Range:
    """A batch and its recipients, from one snapshot."""

    id: int
    first_id: int
    last_id: int
    state: str
    size: int
    says: dict[str, int]  # the counts of the batch, by status
    rows: dict[str, int]  # its recipients counted, by status

    @property
    def is_sound(self) -> bool:
        open_rows = sum(self.rows[status] for status in OPEN)
        covered = open_rows == 0 or self.state in LIVE
        return covered and self.says == self.rows and self.size == sum(self.rows.values())


async def repair(ledger: Ledger, campaign_id: UUID) -> Sequence[Repair]:
    """Reads every recipient of a campaign up to its cursor, in steps, and repairs in short transactions."""
    done: list[Repair] = []
    after = 0
    async with ledger.read() as connection:
        cursor = await connection.scalar(select(col(Campaign.cursor)).where(col(Campaign.id) == campaign_id))
    while cursor and after < cursor:
        step = await repair_next(ledger, campaign_id, after, cursor, BATCHES_AT_ONCE)
        after = step.until
        done += step.repairs
    return done


async def sound(connection: AsyncConnection, campaign_ids: Collection[UUID]) -> Mapping[UUID, Counts]:
    """The counts of those campaigns in which every recipient is in a batch and all counts are right.

    Reads all their rows: for a few small campaigns that are locked, in place of a proof in steps."""
    ranges = defaultdict[UUID, list[_Range]](list)
    for campaign_id, batch in await _ranges(connection, col(Batch.campaign_id).in_(campaign_ids)):
        ranges[campaign_id].append(batch)
    totals = await connection.execute(
        select(col(Recipient.campaign_id), func.count())
        .where(col(Recipient.campaign_id).in_(campaign_ids))
        .group_by(col(Recipient.campaign_id))
    )
    found: dict[UUID, Counts] = {}
    for campaign_id, total in totals:
        rows = {status: sum(one.rows[status] for one in ranges[campaign_id]) for status in STATUSES}
        if total == sum(rows.values()) and all(one.is_sound for one in ranges[campaign_id]):
            found[campaign_id] = {"total": total, **rows}
    return found


async def repair_next(ledger: Ledger, campaign_id: UUID, after: int, cursor: int, most_batches: int) -> Step:
    """One step of `repair`: at most `most_batches` batches that follow the recipient id `after`, with their rows."""
    done: list[Repair] = []
    async with ledger.read() as connection:
        ranges = await _next_ranges(connection, campaign_id, after, cursor, most_batches)
        until = ranges[-1].last_id if len(ranges) == most_batches else cursor
        edges = [after, *(edge for batch in ranges for edge in (batch.first_id, batch.last_id)), until + 1]
        uncovered = [
            (lower, upper)
            for lower, upper in zip(edges[::2], edges[1::2], strict=True)
            if lower + 1 < upper and await _has_rows(connection, campaign_id, lower, upper)
        ]
    for batch in ranges:
        if not batch.is_sound:
            done += await _repair_batch(ledger, campaign_id, batch.id)
    for lower, upper in uncovered:
        done += await _cover(ledger, campaign_id, lower, upper)
    return Step(until, len(ranges), done)


async def recount(connection: AsyncConnection, batch_id: int) -> dict[str, int]:
    """Locks a batch, which must exist, and counts its recipients again; returns them by status."""
    batch = await batches.lock(connection, batch_id)
    assert batch is not None
    counted = await _count(connection, batch.campaign_id, batch.first_id, batch.last_id)
    await connection.execute(
        update(Batch).where(col(Batch.id) == batch_id).values(size=sum(counted.values()), **counted)
    )
    return counted


async def _repair_batch(ledger: Ledger, campaign_id: UUID, batch_id: int) -> Sequence[Repair]:
    """Counts one batch again, under the locks of campaign and batch, and requeues it if it has open recipients but is
    closed."""
    done: list[Repair] = []
    async with ledger.write() as connection:
        campaign = await campaigns.lock(connection, campaign_id)
        if campaign is None:
            return done
        before = await _batch(connection, batch_id)
        counted = await recount(connection, batch_id)
        after = await _batch(connection, batch_id)
        if before != after:
            text = f"The counts of batch {batch_id} disagreed with its recipients and were corrected"
            done.append(Repair(Reason.COUNTS, campaign_id, batch_id, after["generation"], text))
        if after["state"] not in LIVE and any(counted[status] for status in OPEN) and campaign.status in UNDER_WAY:
            for again in await batches.requeue(connection, col(Batch.id) == batch_id):
                text = f"Batch {batch_id} was closed with open recipients: it is sent again"
                done.append(Repair(Reason.CLOSED_BATCH, campaign_id, batch_id, again.generation, text))
        for one in done:
            await timeline.record(connection, campaign_id, "repaired", one.text)
        if done:
            await rollups.renew(connection, campaign_id)
    return done


async def _cover(ledger: Ledger, campaign_id: UUID, lower: int, upper: int) -> Sequence[Repair]:
    """Creates batches for recipients with ids between `lower` and `upper`, both excluded, that no batch covers."""
    done: list[Repair] = []
    while True:
        async with ledger.write() as connection:
            campaign = await campaigns.lock(connection, campaign_id)
            if campaign is None or campaign.status not in UNDER_WAY:
                return done
            missed = await campaigns.next_range(
                connection, campaign_id, lower, ROWS_IN_NEW_BATCH, below=min(upper, campaign.cursor + 1)
            )
            if missed is None or await _any_batch(connection, campaign_id, missed.first_id, missed.last_id):
                return done
            counted = await _count(connection, campaign_id, missed.first_id, missed.last_id)
            batch_id = await batches.create(connection, campaign_id, missed, BatchState.WAITING, **counted)
            text = f"{sum(counted.values())} recipients were in no batch: they are now batch {batch_id}"
            await timeline.record(connection, campaign_id, "repaired", text)
            await rollups.renew(connection, campaign_id)
            done.append(Repair(Reason.NO_BATCH, campaign_id, batch_id, 1, text))
        lower = missed.last_id


async def _next_ranges(
    connection: AsyncConnection, campaign_id: UUID, after: int, cursor: int, most: int
) -> list[_Range]:
    """The next batches of a campaign by range."""
    following = (col(Batch.campaign_id) == campaign_id, col(Batch.first_id) > after, col(Batch.last_id) <= cursor)
    return [batch for _, batch in await _ranges(connection, *following, most=most)]


async def _ranges(
    connection: AsyncConnection, *conditions: ColumnElement[bool], most: int | None = None
) -> list[tuple[UUID, _Range]]:
    """Batches, with their recipients counted in the same statement, so that differences are real; with their campaign,
    by range."""
    chunk = (
        select(col(Batch.campaign_id), col(Batch.first_id), col(Batch.last_id))
        .where(*conditions)
        .order_by(col(Batch.first_id))
        .limit(most)
        .subquery()
    )
    in_range = and_(
        col(Recipient.campaign_id) == chunk.c.campaign_id,
        col(Recipient.id).between(chunk.c.first_id, chunk.c.last_id),
    )
    # By two columns and not by all of a batch, so that PostgreSQL sorts no wide rows.
    counted = (
        select(
            chunk.c.campaign_id,
            chunk.c.first_id,
            *(
                func.count(col(Recipient.id)).filter(col(Recipient.status) == status).label(f"has_{status}")
                for status in STATUSES
            ),
        )
        .select_from(chunk.outerjoin(Recipient, in_range))
        .group_by(chunk.c.campaign_id, chunk.c.first_id)
        .cte("counted")
        .prefix_with("MATERIALIZED")  # else PostgreSQL may count again for each batch
    )
    said = [getattr(Batch, status) for status in STATUSES]
    _, _, *has = counted.c
    rows = await connection.execute(
        select(
            col(Batch.campaign_id),
            col(Batch.id),
            col(Batch.first_id),
            col(Batch.last_id),
            col(Batch.state),
            col(Batch.size),
            *said,
            *has,
        )
        .join(
            counted,
            and_(col(Batch.campaign_id) == counted.c.campaign_id, col(Batch.first_id) == counted.c.first_id),
        )
        .where(*conditions)
        .order_by(col(Batch.first_id))
    )
    width = len(STATUSES)
    return [
        (
            row.campaign_id,
            _Range(
                row.id,
                row.first_id,
                row.last_id,
                row.state,
                row.size,
                says=dict(zip(STATUSES, row[6 : 6 + width], strict=True)),
                rows=dict(zip(STATUSES, row[6 + width :], strict=True)),
            ),
        )
        for row in rows
    ]


async def _has_rows(connection: AsyncConnection, campaign_id: UUID, lower: int, upper: int) -> bool:
    """Whether there are recipients with ids between `lower` and `upper`, both excluded."""
    # Without an order: `recipients_after` would read all of a campaign without statistics, through another index.
    between = (col(Recipient.id) > lower, col(Recipient.id) < upper)
    found = await connection.execute(
        select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign_id, *between).limit(1)
    )
    return found.first() is not None


async def _count(connection: AsyncConnection, campaign_id: UUID, first_id: int, last_id: int) -> dict[str, int]:
    rows = await connection.execute(
        select(col(Recipient.status), func.count())
        .where(col(Recipient.campaign_id) == campaign_id, col(Recipient.id).between(first_id, last_id))
        .group_by(col(Recipient.status))
    )
    return dict.fromkeys(STATUSES, 0) | {row[0]: row[1] for row in rows}


async def _batch(connection: AsyncConnection, batch_id: int) -> dict[str, Any]:
    columns = [getattr(Batch, name) for name in ("state", "generation", "size", *STATUSES)]
    return dict((await connection.execute(select(*columns).where(col(Batch.id) == batch_id))).one()._mapping)


async def _any_batch(connection: AsyncConnection, campaign_id: UUID, first_id: int, last_id: int) -> bool:
    found = await connection.execute(
        select(col(Batch.id))
        .where(col(Batch.campaign_id) == campaign_id, col(Batch.first_id) <= last_id, col(Batch.last_id) >= first_id)
        .limit(1)
    )
    return found.first() is not None
