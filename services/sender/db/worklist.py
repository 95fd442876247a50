"""The recipients of a batch that are open and due, read in slices."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Integer, Select, Uuid, bindparam, or_, select
from sqlmodel import col

from services.sender.db.claims import Claim
from shared import logs
from shared.ledger import hashed
from shared.ledger.database import Ledger, db_now
from shared.ledger.hashed import SealedSecretError
from shared.ledger.models import Recipient, Suppression
from shared.ledger.states import OPEN

DUE_WITHIN_SECONDS = 15.0
"""A recipient due within this time belongs to the worklist already."""

log = logs.get()


class WorklistRow(NamedTuple):
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


def _open_and_due() -> Select[*tuple[Any, ...]]:
    project_id = bindparam("project_id", type_=Uuid)
    suppressed = (
        select(col(Suppression.email_key))
        .where(col(Suppression.project_id) == project_id, col(Suppression.email_key) == col(Recipient.email_key))
        .where(col(Suppression.provisional).is_not(True))
        .exists()
    )
    return (
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
            hashed.has_any(project_id),
        )
        .where(
            col(Recipient.campaign_id) == bindparam("campaign_id"),
            col(Recipient.id) > bindparam("after_id"),
            col(Recipient.id) <= bindparam("last_id"),
            col(Recipient.status).in_([status.value for status in OPEN]),
            or_(
                col(Recipient.next_attempt_at).is_(None),
                col(Recipient.next_attempt_at) <= db_now() + DUE_WITHIN_SECONDS,
            ),
        )
        .order_by(col(Recipient.id))
        .limit(bindparam("most", type_=Integer))
    )


_OPEN_AND_DUE = _open_and_due()


async def read_worklist(
    ledger: Ledger, held: Claim, project_id: UUID, after_id: int, limit: int, hash_roots: Sequence[bytes] = ()
) -> Sequence[WorklistRow]:
    """The next open and due recipients of the batch, by id: at most `limit` above `after_id`. Suppressed ones are
    marked, but not those in doubt. With `hash_roots` (CommonSettings.hash_roots) also those suppressed by their hash,
    if a process of another release has imported them."""
    values = {
        "campaign_id": held.campaign_id,
        "project_id": project_id,
        "after_id": max(after_id, held.first_id - 1),
        "last_id": held.last_id,
        "most": limit,
    }
    found = await ledger.read_alone(_OPEN_AND_DUE, values)
    now = time.monotonic()
    rows: list[WorklistRow] = []
    for *facts, due_in, _has_hashes in found:
        facts.append(now + due_in if due_in is not None else 0.0)
        rows.append(WorklistRow(*facts))
    if not hash_roots or not found or not found[0][-1]:
        return rows
    try:
        async with ledger.read() as connection:
            keys = await hashed.suppressed_among(connection, hash_roots, project_id, [row.email_key for row in rows])
    except SealedSecretError as error:
        log.warning("hashes.sealed", error=str(error))  # the API imports nothing before that is mended
        return rows
    return [row._replace(suppressed=True) if row.email_key in keys else row for row in rows]
