"""Campaigns that ended long ago, as the services leave them."""

import secrets
import time
from uuid import UUID

from sqlalchemy import insert, select, text, update
from sqlmodel import col

from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient
from shared.ledger.repair import recount
from tests.support.ledger import add_campaign

DAY_SECONDS = 86_400.0
CONTENT = '{"subject":"News of {{ city }}","html":null,"text":"Hello.","attachments":[]}'


def id_made(days_ago: float) -> UUID:
    """A campaign's id as it was made then (RFC 9562, section 5.7)."""
    milliseconds = int((time.time() - days_ago * DAY_SECONDS) * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))


async def ended_campaign(
    ledger: Ledger,
    recipients: int = 10,
    *,
    days_ago: float,
    failed: int = 1,
    batch_size: int = 100,
    project_id: UUID = DEFAULT_PROJECT,
) -> UUID:
    """A finished campaign with `r1@example.com` and so on. The first `failed` failed, the others are sent."""
    made_at = db_now() - days_ago * DAY_SECONDS - 3600
    campaign_id = await add_campaign(
        ledger, recipients, status="finished", id=id_made(days_ago + 1 / 12), deliver_by=-days_ago * DAY_SECONDS
    )
    async with ledger.write() as connection:
        mine = col(Recipient.campaign_id) == campaign_id
        ids = list(
            (await connection.execute(select(col(Recipient.id)).where(mine).order_by(col(Recipient.id)))).scalars()
        )
        await connection.execute(update(Recipient).where(mine).values(status="sent", sent_at=made_at, smtp_code=250))
        await connection.execute(
            update(Recipient)
            .where(mine, col(Recipient.id).in_(ids[:failed]))
            .values(
                status="failed",
                smtp_code=550,
                enhanced_code="5.1.1",
                reply=text("'550 5.1.1 <' || email || '>: no such user'"),
            )
        )
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            added = await connection.execute(
                insert(Batch)
                .values(
                    campaign_id=campaign_id,
                    first_id=part[0],
                    last_id=part[-1],
                    size=len(part),
                    state="done",
                    due_at=made_at,
                )
                .returning(col(Batch.id))
            )
            await recount(connection, added.scalar_one())
        await connection.execute(
            update(Campaign)
            .where(col(Campaign.id) == campaign_id)
            .values(
                project_id=project_id,
                content=CONTENT,
                cursor=ids[-1] if ids else 0,
                created_at=made_at,
                started_at=made_at,
                finished_at=made_at + 3600,
                reason="r1@example.com was last",
            )
        )
    return campaign_id
