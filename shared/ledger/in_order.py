"""Rows of one campaign in the order of recipients, however many other campaigns the table holds.

A usual condition, `campaign_id = ... ORDER BY id LIMIT ...`, is a trap on PostgreSQL: if the campaign has much of the
table, the planner may take the primary key for the order, and read the rows of all campaigns before this one until it
meets the first. Here it is a range of the index that begins with the campaign instead.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    String,
    Uuid,
    and_,
    literal,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import col

from shared.ledger.models import Recipient
from shared.ledger.report_tables import Report

LARGEST_ID = 2**63 - 1

NEVER_SORT = text(
    "SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_sort', 'enable_incremental_sort']) name"
)
"""For the transaction, on PostgreSQL. Before it has analysed a table for the first time, the planner expects a handful
of rows, and would sort all of an import."""

MOST_RANGES = 100
"""SQLite takes at most 500 parts in one statement."""

IN_ORDER = (col(Recipient.campaign_id), col(Recipient.id))
"""The order of `recipients_after`, that of the index `recipient_by_campaign`."""

REPORTS_IN_ORDER = (col(Report.campaign_id), col(Report.kind), col(Report.recipient_id))
"""The order of `reports_after`, that of the index `report_by_campaign`."""


def recipients_after(
    campaign_id: UUID | BindParameter[UUID],
    after: int | BindParameter[int] = 0,
    until: int | BindParameter[int] = LARGEST_ID,
) -> ColumnElement[bool]:
    """The campaign's recipients with ids above `after`, up to `until`. Order them by IN_ORDER."""
    campaign = literal(campaign_id, Uuid()) if isinstance(campaign_id, UUID) else campaign_id
    above = literal(after, BigInteger()) if isinstance(after, int) else after
    return _after(IN_ORDER, (campaign,), above, until)


def in_ranges(
    columns: Sequence[Any],
    campaign_id: UUID,
    ranges: Sequence[tuple[int, int]],
    limit: int,
    *conditions: ColumnElement[bool],
) -> CompoundSelect[Any]:
    """The campaign's recipients with ids in these ranges, both ends included: the first `limit` of each range, together
    in no order. At most MOST_RANGES.

    Each is a range of an index, which ends where the range does: that of `recipients_after` is read on until the end of
    the campaign. With OR between the ranges PostgreSQL may read the whole campaign in order and compare each row, once
    it has prepared the statement."""
    parts = (
        select(*columns)
        .where(col(Recipient.campaign_id) == campaign_id, col(Recipient.id).between(low, high), *conditions)
        .order_by(col(Recipient.id))
        .limit(limit)
        .subquery()
        for low, high in ranges
    )
    return union_all(*(select(part) for part in parts))


def all_after(campaign_id: Mapped[UUID], after: Mapped[int]) -> ColumnElement[bool]:
    """The campaign's recipients with ids above `after`, and on PostgreSQL those of other campaigns behind them. The
    first in IN_ORDER says whether the campaign has one; ask for no more than that."""
    on_sqlite = and_(col(Recipient.campaign_id) == campaign_id, col(Recipient.id) > after)
    return _ByDatabase(tuple_(*IN_ORDER) > tuple_(campaign_id, after), on_sqlite)


def reports_after(campaign_id: UUID, kind: str, after: int) -> ColumnElement[bool]:
    """The campaign's reports of one kind about recipients with ids above `after`. Order them by REPORTS_IN_ORDER."""
    of_kind = (literal(campaign_id, Uuid()), literal(kind, String()))
    return _after(REPORTS_IN_ORDER, of_kind, literal(after, BigInteger()), LARGEST_ID)


def _after(index: Sequence[Any], begins_with: Sequence[Any], above: Any, until: Any) -> ColumnElement[bool]:
    last = literal(until, BigInteger()) if isinstance(until, int) else until
    as_range = and_(tuple_(*index) > tuple_(*begins_with, above), tuple_(*index) <= tuple_(*begins_with, last))
    same = [column == value for column, value in zip(index[:-1], begins_with, strict=True)]
    # SQLite would read a range from its very beginning; it has no such trap.
    return _ByDatabase(as_range, and_(*same, index[-1] > above, index[-1] <= last))


class _ByDatabase(FunctionElement[bool]):
    """The first condition on PostgreSQL, the second on SQLite."""

    name = "by_database"
    inherit_cache = True


@compiles(_ByDatabase, "postgresql")
def _on_postgresql(element: _ByDatabase, compiler: Any, **how: Any) -> str:
    on_postgresql, _ = element.clauses
    return str(compiler.process(on_postgresql, **how))


@compiles(_ByDatabase, "sqlite")
def _on_sqlite(element: _ByDatabase, compiler: Any, **how: Any) -> str:
    _, on_sqlite = element.clauses
    return str(compiler.process(on_sqlite, **how))
