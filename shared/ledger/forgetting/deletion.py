"""Deleting the results of one campaign, in short transactions. Each leaves the ledger so that the next one, of any
process, continues where it ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Row, Text, delete, func, insert, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import hashed, rows, timeline
from shared.ledger.database import clock, db_now
from shared.ledger.forgetting import due, people, summary
from shared.ledger.forgetting.due import Due
from shared.ledger.forgetting_tables import ForgottenCampaign
from shared.ledger.in_order import IN_ORDER, recipients_after
from shared.ledger.models import Batch, Campaign, Import, Recipient, RelayRefusals, SpreadRefusals, Timeline
from shared.ledger.report_tables import Report
from shared.ledger.states import RecipientStatus
from shared.reply_text import without_addresses

BATCHES_AT_ONCE = 50
"""Ranges in which one transaction looks for recipients."""

_REFUSED = (RecipientStatus.FAILED, RecipientStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one transaction has deleted."""

    what: Literal["recipient", "report"]
    rows: int


async def begin(connection: AsyncConnection, campaign: Due) -> bool:
    """Marks a campaign as forgotten, and removes its content. From then on it cannot be reopened. False if it was
    reopened or marked before."""
    now = await clock(connection)
    subject = await _subject(connection, campaign.campaign_id)
    content: dict[str, object] = {"subject": subject, "html": None, "text": None, "attachments": []}
    marked = await connection.execute(
        update(Campaign)
        .where(col(Campaign.id) == campaign.campaign_id, *due.past(campaign.days, now))
        .values(forgotten_at=now, content=orjson.dumps(content).decode())
    )
    if marked.rowcount == 0:
        return False
    await connection.execute(
        insert(ForgottenCampaign).values(campaign_id=campaign.campaign_id, days=campaign.days, began_at=now)
    )
    words = f"Its project keeps results for {campaign.days} days: they are deleted. Counts and a summary stay."
    await timeline.record(connection, campaign.campaign_id, "forgotten", words)
    return True


async def unfinished(connection: AsyncConnection, settled_seconds: float) -> Sequence[UUID]:
    """Campaigns that were marked at least these seconds ago and still have rows, the first marked first."""
    found = await connection.execute(
        select(col(ForgottenCampaign.campaign_id))
        .where(col(ForgottenCampaign.ended_at).is_(None), col(ForgottenCampaign.began_at) <= db_now() - settled_seconds)
        .order_by(col(ForgottenCampaign.began_at))
    )
    return list(found.scalars())


async def delete_some(
    connection: AsyncConnection, campaign_id: UUID, roots: Sequence[bytes], most: int
) -> Deleted | None:
    """Deletes at most `most` rows of a marked campaign. None: nothing is left, and it is done.

    `roots`: see CommonSettings.hash_roots. Raises hashed.SealedSecretError: nothing is deleted then."""
    state = await rows.lock(
        connection,
        ForgottenCampaign.cursor,
        col(ForgottenCampaign.campaign_id) == campaign_id,
        col(ForgottenCampaign.ended_at).is_(None),
        returning=(col(ForgottenCampaign.cursor), col(ForgottenCampaign.refusals)),
    )
    if state is None:
        return None
    gone = await _recipients(connection, campaign_id, state.cursor, most)
    if gone:
        await _keep(connection, campaign_id, roots, gone)
        kinds = [
            summary.kind_of(row.status, row.smtp_code, row.enhanced_code, row.reply)
            for row in gone
            if row.status in _REFUSED or (row.reply and row.status != RecipientStatus.SENT)
        ]
        await _note(connection, campaign_id, state.refusals, kinds, recipients=len(gone), cursor=gone[-1].id)
        return Deleted("recipient", len(gone))
    reports = await _reports(connection, campaign_id, most)
    if reports:
        kinds = [summary.kind_of(row.kind, row.code, row.enhanced_code, row.why) for row in reports]
        await _note(connection, campaign_id, state.refusals, kinds, reports=len(reports))
        return Deleted("report", len(reports))
    await _end(connection, campaign_id)
    return None


async def _keep(
    connection: AsyncConnection, campaign_id: UUID, roots: Sequence[bytes], gone: Sequence[Row[Any]]
) -> None:
    """Keeps what the unsubscribe links of these recipients need."""
    secret = await hashed.secret(connection, roots) or await hashed.secret(connection, roots, make=True)
    project_id = await connection.scalar(select(col(Campaign.project_id)).where(col(Campaign.id) == campaign_id))
    assert secret is not None
    assert project_id is not None
    keys = {row.id: hashed.key_of(secret, project_id, row.email_key) for row in gone}
    await people.keep(connection, campaign_id, keys)


async def _recipients(connection: AsyncConnection, campaign_id: UUID, cursor: int, most: int) -> Sequence[Row[Any]]:
    """Deletes the next recipients, and returns them by id."""
    while (until := await _end_of_batches(connection, campaign_id, cursor)) is not None:
        found = await _read(connection, most, recipients_after(campaign_id, cursor, until))
        if found:
            break
        cursor = until
    else:  # the rest of the last batch, and what no batch covers
        found = await _read(connection, most, recipients_after(campaign_id, cursor))
    if found:
        span = col(Recipient.id).between(found[0].id, found[-1].id)
        await connection.execute(delete(Recipient).where(col(Recipient.campaign_id) == campaign_id, span))
    return found


async def _end_of_batches(connection: AsyncConnection, campaign_id: UUID, cursor: int) -> int | None:
    """The last id of the batches that begin after `cursor`; None if there are none. Recipients are looked for up to
    there: PostgreSQL may read the whole table for a search without an end."""
    following = (
        select(col(Batch.last_id))
        .where(col(Batch.campaign_id) == campaign_id, col(Batch.first_id) > cursor)
        .order_by(col(Batch.first_id))
        .limit(BATCHES_AT_ONCE)
        .subquery()
    )
    end: int | None = await connection.scalar(select(func.max(following.c.last_id)))
    return end


async def _read(connection: AsyncConnection, most: int, wanted: ColumnElement[bool]) -> Sequence[Row[Any]]:
    columns = [
        getattr(Recipient, name) for name in ("id", "email_key", "status", "smtp_code", "enhanced_code", "reply")
    ]
    found = (await connection.execute(select(*columns).where(wanted).order_by(*IN_ORDER).limit(most))).all()
    return [row for row in found if row.id - found[0].id < people.WIDTH]


async def _reports(connection: AsyncConnection, campaign_id: UUID, most: int) -> Sequence[Row[*tuple[Any, ...]]]:
    some = select(col(Report.id)).where(col(Report.campaign_id) == campaign_id).limit(most)
    gone = await connection.execute(
        delete(Report)
        .where(col(Report.id).in_(some))
        .returning(col(Report.kind), col(Report.code), col(Report.enhanced_code), col(Report.why))
    )
    return gone.all()


async def _note(
    connection: AsyncConnection,
    campaign_id: UUID,
    refusals: str,
    kinds: Sequence[tuple[str, str, str]],
    *,
    recipients: int = 0,
    reports: int = 0,
    cursor: int | None = None,
) -> None:
    table = ForgottenCampaign
    values: dict[str, Any] = {
        "recipients": col(table.recipients) + recipients,
        "reports": col(table.reports) + reports,
    }
    if kinds:
        values["refusals"] = summary.added(refusals, kinds)
    if cursor is not None:
        values["cursor"] = cursor
    await connection.execute(update(table).where(col(table.campaign_id) == campaign_id).values(values))


async def _end(connection: AsyncConnection, campaign_id: UUID) -> None:
    """The last transaction: what else names people goes, too."""
    for model in (RelayRefusals, SpreadRefusals):
        await connection.execute(delete(model).where(col(model.campaign_id) == campaign_id))
    await connection.execute(
        update(Import).where(col(Import.campaign_id) == campaign_id).values(problems="[]", error=None)
    )
    entries = await connection.execute(
        select(col(Timeline.id), col(Timeline.text)).where(
            col(Timeline.campaign_id) == campaign_id, col(Timeline.text).contains("@")
        )
    )
    for entry in entries.all():
        await connection.execute(
            update(Timeline).where(col(Timeline.id) == entry.id).values(text=without_addresses(entry.text))
        )
    told = await connection.execute(
        select(col(Campaign.reason), col(Campaign.blocked_by)).where(
            col(Campaign.id) == campaign_id,
            or_(col(Campaign.reason).contains("@"), col(Campaign.blocked_by).contains("@")),
        )
    )
    for row in told.all():
        values = {name: text and without_addresses(text) for name, text in row._asdict().items()}
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign_id).values(**values))
    await connection.execute(
        update(ForgottenCampaign).where(col(ForgottenCampaign.campaign_id) == campaign_id).values(ended_at=db_now())
    )


async def _subject(connection: AsyncConnection, campaign_id: UUID) -> str:
    """Without reading the attachments, which may be megabytes."""
    subject: ColumnElement[str] = func.json_extract(col(Campaign.content), "$.subject")
    if connection.dialect.name == "postgresql":
        subject = literal_column("CAST(content AS json) ->> 'subject'", Text())
    return await connection.scalar(select(subject).where(col(Campaign.id) == campaign_id)) or ""
