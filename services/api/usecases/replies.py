"""Why emails were not accepted: replies of relays in groups, so that the same refusal of many addresses is one line.

A bounded number of rows is read: a sample, spread evenly over the batches that count such rows.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.usecases.provider_waits import OUR_WORDS
from shared.ledger.in_order import MOST_RANGES, in_ranges
from shared.ledger.models import Batch, Recipient
from shared.ledger.states import RecipientStatus
from shared.reply_text import general

ROWS_GROUPED = 1000
ROWS_READ = 20_000
"""Rows in the ranges that are searched for them."""
STRETCHES, BATCHES_OF_STRETCH = 50, 20
EXAMPLES = 3
GROUPS_SHOWN = 50

_COLUMNS = (
    col(Recipient.id),
    col(Recipient.email),
    col(Recipient.attempts),
    col(Recipient.smtp_code),
    col(Recipient.enhanced_code),
    col(Recipient.reply),
    col(Recipient.relay),
)

_MEANINGS: Sequence[tuple[str, str]] = (
    (r"5\.1\.([12346]|10)|5\.2\.1|5\.7\.13", "The mailbox or its domain does not exist."),
    (r"[45]\.2\.2", "The mailbox is full."),
    (r"5\.7\..*", "Policy or reputation: not the recipient's fault."),
    (r"5\.6\..*|5\.3\.4", "The content or size of the message is refused."),
    (r"5\.1\.[78]", "The sender's address is refused."),
    (r"4\.7\..*", "Policy, for now: rate, greylisting or reputation."),
    (r"4\.4\..*", "The network, or the route to the mailbox."),
    (r"4\.3\..*", "A problem of the relay itself."),
)


@dataclass(slots=True)
class Group:
    """One kind of reply."""

    code: str
    text: str  # the first such reply, with `…` for what only one email has
    meaning: str
    count: int
    relays: Counter[str]
    examples: list[Any]


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one status."""

    groups: Sequence[Group]  # the largest first
    grouped: int  # rows that were read
    total: int  # rows there are

    @property
    def is_sample(self) -> bool:
        return self.grouped < self.total


async def by_reply(connection: AsyncConnection, campaign_id: UUID, status: RecipientStatus, total: int) -> Groups:
    """The replies to a campaign's recipients in one status, of whom there are `total`."""
    if not total:
        return Groups((), 0, 0)
    held = await _held(connection, campaign_id, getattr(Batch, status.value), total)
    last_ids = {row[0]: row[1] for row in held}
    chosen = spread([(first_id, size, holds) for first_id, _, size, holds in held])
    found: list[Any] = []
    for begin in range(0, len(chosen), MOST_RANGES):
        ranges = [(first_id, last_ids[first_id]) for first_id in chosen[begin : begin + MOST_RANGES]]
        those = in_ranges(_COLUMNS, campaign_id, ranges, ROWS_GROUPED, col(Recipient.status) == status.value)
        found += (await connection.execute(those)).all()
    found = sorted(found, key=lambda row: row.id)[:ROWS_GROUPED]
    return Groups(group(found), len(found), max(total, len(found)))


async def _held(
    connection: AsyncConnection, campaign_id: UUID, count: Any, total: int
) -> Sequence[Row[int, int, int, int]]:
    """First and last recipient, size and `count` of the batches that count such recipients, in order; of many
    recipients, the first few batches of each stretch of the campaign."""
    query = select(col(Batch.first_id), col(Batch.last_id), col(Batch.size), count).where(
        col(Batch.campaign_id) == campaign_id, count > 0
    )
    if total <= ROWS_GROUPED:
        return (await connection.execute(query.order_by(col(Batch.first_id)))).all()
    first_id = col(Batch.first_id)
    ends = select(func.min(first_id), func.max(first_id)).where(col(Batch.campaign_id) == campaign_id)
    first, last = (await connection.execute(ends)).one()
    if first is None:  # the campaign was deleted a moment ago
        return ()
    step = (last - first) // STRETCHES + 1
    stretches = (
        query.where(first_id.between(low, low + step - 1)).order_by(first_id).limit(BATCHES_OF_STRETCH).subquery()
        for low in range(first, last + 1, step)
    )
    found = await connection.execute(union_all(*(select(stretch) for stretch in stretches)))
    return sorted(found.all())


def spread(held: Sequence[tuple[int, int, int]]) -> list[int]:
    """The batches to read, given (first recipient id, size, rows wanted) of each. If they hold more rows than may be
    grouped or read, only some of them, spread over the campaign."""
    wanted = read = 0
    chosen: list[int] = []
    for batch_id, size, holds in _all_over(held):
        if chosen and (wanted >= ROWS_GROUPED or read + size > ROWS_READ):
            break
        chosen.append(batch_id)
        wanted += holds
        read += size
    return chosen


def group(rows: Iterable[Any]) -> list[Group]:
    """Groups rows with `email`, `attempts`, `smtp_code`, `enhanced_code`, `reply`, `relay`."""
    groups: dict[tuple[str, str], Group] = {}
    for row in rows:
        code = " ".join(str(part) for part in (row.smtp_code, row.enhanced_code) if part)
        text = general(row.reply or "")
        found = groups.get((code, text.casefold()))
        if found is None:
            found = groups[code, text.casefold()] = Group(
                code, text, _meaning(row.enhanced_code, row.smtp_code, row.reply), 0, Counter(), []
            )
        found.count += 1
        if row.relay:
            found.relays[row.relay] += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(row)
    return sorted(groups.values(), key=lambda one: -one.count)[:GROUPS_SHOWN]


def _all_over(held: Sequence[tuple[int, int, int]]) -> Iterable[tuple[int, int, int]]:
    """Each once: the middle, then the middles of the halves, and so on."""
    seen: set[int] = set()
    parts = 1
    while len(seen) < len(held):
        for part in range(parts):
            index = (2 * part + 1) * len(held) // (2 * parts)
            if index not in seen and index < len(held):
                seen.add(index)
                yield held[index]
        parts *= 2


def _meaning(enhanced: str | None, code: int | None, reply: str | None) -> str:
    if (reply or "").startswith(OUR_WORDS):
        return "A limit of the provider leaves no room yet."
    for pattern, meaning in _MEANINGS:
        if enhanced and re.fullmatch(pattern, enhanced):
            return meaning
    if code is None:
        return "The relay gave no reply."
    return "Refused for now." if code < 500 else "Refused for good."
