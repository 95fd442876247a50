"""The recipients of a batch that are open and due, read in slices."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import or_, select
from sqlmodel import col

from services.sender.db.claims import Claim
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Recipient, Suppression
from shared.ledger.states import OPEN

DUE_WITHIN_SECONDS = 15.0
"""A recipient due within this time belongs to the worklist already."""


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One recipient of a worklist."""

    id: int
    email: str
    data: str | None  # the merge fields, a JSON object
    status: str
    attempts: int
    intended: bool  # the ledger has an intent: its body may have left
    suppressed: bool
    email_key: str  # what a suppression of its address is found by
    due_at: float = 0.0  # in monotonic seconds, if it is due later


async def read_worklist(
    ledger: Ledger, held: Claim, project_id: UUID, after_id: int, limit: int
) -> Sequence[WorklistRow]:
    """The next open and due recipients of the batch, by id: at most `limit` above `after_id`. Suppressed ones are
    marked, but not those in doubt."""
    suppressed = (
        select(col(Suppression.email_key))
        .where(col(Suppression.project_id) == project_id, col(Suppression.email_key) == col(Recipient.email_key))
        .where(col(Suppression.provisional).is_not(True))
        .exists()
    )
    statement = (
        select(
            col(Recipient.id),
            col(Recipient.email),
            col(Recipient.data),
            col(Recipient.status),
            col(Recipient.attempts),
            col(Recipient.intent_at).is_not(None),
            suppressed,
            col(Recipient.email_key),
            col(Recipient.next_attempt_at) - db_now(),
        )
        .where(
            col(Recipient.campaign_id) == held.campaign_id,
            col(Recipient.id) > max(after_id, held.first_id - 1),
            col(Recipient.id) <= held.last_id,
            col(Recipient.status).in_([status.value for status in OPEN]),
            or_(
                col(Recipient.next_attempt_at).is_(None),
                col(Recipient.next_attempt_at) <= db_now() + DUE_WITHIN_SECONDS,
            ),
        )
        .order_by(col(Recipient.id))
        .limit(limit)
    )
    async with ledger.read() as connection:
        found = await connection.execute(statement)
        now = time.monotonic()
        return [WorklistRow(*row[:-1], now + row[-1] if row[-1] is not None else 0.0) for row in found]
