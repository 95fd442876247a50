"""Rows for tests that start in the middle of a campaign's life."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import insert, select
from sqlmodel import col
from uuid6 import uuid7

from shared.content import CampaignContent
from shared.ledger.counts import STATUSES
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient
from shared.ledger.states import BatchState, CampaignStatus

CONTENT = CampaignContent(subject="Hello {{ name|default('you') }}", text="Dear {{ name|default('you') }},\n\nhello.\n")


@dataclass(frozen=True, slots=True)
class Seeded:
    """A campaign that is being sent, with all its recipients in released batches."""

    id: UUID
    recipient_ids: Sequence[int]
    batch_ids: Sequence[int]


async def seed_campaign(
    ledger: Ledger, recipients: int = 10, *, batch_size: int = 100, batches: bool = True, **columns: object
) -> Seeded:
    """A campaign in `sending` with `person-N@example.test`, split into batches at generation 1, state `released`."""
    campaign_id = uuid7()
    values: dict[str, object] = {
        "id": campaign_id,
        "project_id": DEFAULT_PROJECT,
        "name": "seeded",
        "from_email": "news@example.test",
        "envelope_from": "bounces@example.test",
        "content": CONTENT.model_dump_json(),
        "status": CampaignStatus.SENDING.value,
        "delivery": "at_least_once",
        "total": recipients,
        "created_at": db_now(),
        "started_at": db_now(),
        **columns,
    }
    async with ledger.write() as connection:
        await connection.execute(insert(Campaign).values(**values))
        if recipients:
            await connection.execute(
                insert(Recipient),
                [
                    {
                        "campaign_id": campaign_id,
                        "email": f"person-{n}@example.test",
                        "email_key": f"person-{n}@example.test",
                    }
                    for n in range(recipients)
                ],
            )
        found = await connection.execute(
            select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign_id).order_by(col(Recipient.id))
        )
        ids = list(found.scalars())
        batch_ids = []
        for start in range(0, len(ids) if batches else 0, batch_size):
            part = ids[start : start + batch_size]
            row = await connection.execute(
                insert(Batch)
                .values(
                    campaign_id=campaign_id,
                    first_id=part[0],
                    last_id=part[-1],
                    size=len(part),
                    state=BatchState.RELEASED.value,
                    generation=1,
                    due_at=db_now(),
                    released_at=db_now(),
                    **{**dict.fromkeys(STATUSES, 0), "pending": len(part)},
                )
                .returning(col(Batch.id))
            )
            batch_ids.append(row.scalar_one())
    return Seeded(campaign_id, ids, batch_ids)
