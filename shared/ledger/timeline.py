"""What happened to a campaign, in sentences for clients; bounded in size."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ScalarSelect,
    String,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.models import LONGEST_REPLY, Timeline


async def record(connection: AsyncConnection, campaign_id: UUID, kind: str, text: str) -> None:
    """Adds an entry in the current transaction. If the last entry is of the same kind, that one counts up instead: a
    campaign that is rescued a thousand times has one line."""
    values = {"its_campaign": campaign_id, "its_kind": kind, "its_text": text[:LONGEST_REPLY]}
    if (await connection.execute(_ADD, values)).rowcount == 0:
        await connection.execute(_COUNT_UP, values)


def _last(column: Mapped[Any]) -> ScalarSelect[Any]:
    """Of the campaign's last entry."""
    its_own = col(Timeline.campaign_id) == bindparam("its_campaign")
    return select(column).where(its_own).order_by(col(Timeline.id).desc()).limit(1).scalar_subquery()


_ADD = insert(Timeline).from_select(
    ["campaign_id", "kind", "text", "at", "last_at", "times"],
    select(
        bindparam("its_campaign", type_=Uuid),
        bindparam("its_kind", type_=String),
        bindparam("its_text", type_=String),
        db_now(),
        db_now(),
        literal_column("1"),
    ).where(func.coalesce(_last(col(Timeline.kind)), "") != bindparam("its_kind")),
)
"""Unless the last entry is of this kind."""

_COUNT_UP = (
    update(Timeline)
    .where(col(Timeline.id) == _last(col(Timeline.id)))
    .values(times=col(Timeline.times) + 1, text=bindparam("its_text"), last_at=db_now())
)


async def record_all(connection: AsyncConnection, texts: Mapping[UUID, str], kind: str) -> None:
    """Adds an entry of the same kind to each of many campaigns; `texts` by campaign."""
    if len(texts) == 1:  # in one statement
        [(campaign_id, text)] = texts.items()
        await record(connection, campaign_id, kind, text)
        return
    repeated = await _newest_of(connection, texts.keys(), kind)
    for campaign_id in repeated:
        await record(connection, campaign_id, kind, texts[campaign_id])
    new = [
        {"campaign_id": campaign_id, "text": text[:LONGEST_REPLY]}
        for campaign_id, text in texts.items()
        if campaign_id not in repeated
    ]
    if new:
        await connection.execute(insert(Timeline).values(kind=kind, at=db_now(), last_at=db_now(), times=1), new)


async def _newest_of(connection: AsyncConnection, campaign_ids: Collection[UUID], kind: str) -> set[UUID]:
    """Those of the campaigns whose newest entry is of this kind."""
    newest = (
        select(func.max(col(Timeline.id)))
        .where(col(Timeline.campaign_id).in_(campaign_ids))
        .group_by(col(Timeline.campaign_id))
    )
    found = await connection.execute(
        select(col(Timeline.campaign_id)).where(col(Timeline.id).in_(newest), col(Timeline.kind) == kind)
    )
    return set(found.scalars())


async def trim(connection: AsyncConnection, campaign_id: UUID, keep: int) -> int:
    """Drops all entries but the first and the newest, `keep` in all; returns the number dropped."""
    newest = (
        select(col(Timeline.id))
        .where(col(Timeline.campaign_id) == campaign_id)
        .order_by(col(Timeline.id).desc())
        .offset(keep - 2)
        .limit(1)
    )
    first = select(col(Timeline.id)).where(col(Timeline.campaign_id) == campaign_id).order_by(col(Timeline.id)).limit(1)
    gone = await connection.execute(
        delete(Timeline).where(
            col(Timeline.campaign_id) == campaign_id,
            col(Timeline.id) < newest.scalar_subquery(),
            col(Timeline.id) != first.scalar_subquery(),
        )
    )
    return gone.rowcount
