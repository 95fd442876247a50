"""Campaigns: create, list, delete."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.formats.new_recipient import NewRecipient, RecipientError, check_recipient
from services.api.shapes.campaigns import CampaignIn, CampaignOut, CampaignSummary
from services.api.shapes.common import Page
from services.api.shapes.recipients import RecipientIn
from services.api.usecases import campaign_row, content
from services.api.usecases.acts import about
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import InvalidError
from services.api.usecases.importer import ERASED
from services.api.usecases.paging import cut
from services.api.usecases.store import Target, store
from services.api.usecases.summaries import show, summaries
from services.api.usecases.tenant import Tenant
from shared import retries
from shared.content import CampaignContent, stored_json
from shared.ledger import campaigns as ledger_campaigns
from shared.ledger import rate_limits, timeline
from shared.ledger.database import Ledger, db_now
from shared.ledger.in_order import IN_ORDER, recipients_after
from shared.ledger.models import Campaign, Import, Recipient
from shared.ledger.rate_limits import campaign_scope
from shared.ledger.states import CampaignStatus, ImportState
from shared.relay_groups import RelayGroups
from shared.templates import Content

DELETE_CHUNK_ROWS = 10_000
CONTENT = ("subject", "html", "text", "attachments")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which campaigns of a project."""

    statuses: Sequence[CampaignStatus] = ()  # empty: all
    include_tests: bool = False


async def create(
    ledger: Ledger,
    tenant: Tenant,
    given: CampaignIn,
    groups: RelayGroups,
    settle: Callable[[AsyncConnection, CampaignOut], Awaitable[None]] | None = None,
) -> CampaignOut:
    """Creates a draft, with its recipients if any are given. Raises InvalidError for content that cannot be compiled,
    for an unknown relay group, and for recipients of whom one is invalid; ForeignDomainError for a sender of another's
    domain."""
    campaign_row.require_group(groups, given.relay_group)
    stored = CampaignContent(**{name: getattr(given, name) for name in CONTENT})  # shares the files
    compiled = await content.check(stored)
    recipients = unique(given.recipients, compiled)
    columns = given.model_dump(exclude={*CONTENT, "sender", "reply_to", "recipients"}) | {
        **retries.stored(given.max_retries, given.retry_delay_seconds),
        **campaign_row.reply_to_columns(given.reply_to),
        "from_email": given.sender.email,
        "from_name": given.sender.name,
        "envelope_from": given.envelope_from or given.sender.email,
        "content": stored_json(stored),
    }
    async with ledger.write() as connection:
        senders = {"#/from/email": columns["from_email"], "#/envelope_from": columns["envelope_from"]}
        await tenant.require_domains(connection, senders)
        created = await ledger_campaigns.create(connection, project_id=tenant.project_id, **columns)
        campaign = CampaignRef(tenant, created)
        about(campaign_id=created)
        await rate_limits.put(connection, campaign_scope(campaign.id), given.emails_per_second)
        await timeline.record(connection, campaign.id, "created", "Created.")
        if recipients:
            await add_inline(connection, campaign, recipients, lines=len(given.recipients))
        shown = content.with_warnings(await show(connection, campaign), compiled)
        if settle is not None:
            await settle(connection, shown)
    return shown


async def list_campaigns(
    connection: AsyncConnection, project_id: UUID, wanted: Filter, cursor: UUID | None, limit: int
) -> Page[CampaignSummary]:
    """Newest first, from below the campaign `cursor`."""
    query = _matching(select(*campaign_row.COLUMNS), project_id, wanted)
    if cursor is not None:
        query = query.where(col(Campaign.id) < cursor)
    found = await connection.execute(query.order_by(col(Campaign.id).desc()).limit(limit + 1))
    rows, following = cut(found.all(), limit)
    return Page(data=await summaries(connection, rows), next_cursor=following)


async def newest(connection: AsyncConnection, project_id: UUID, wanted: Filter) -> UUID | None:
    """The id of the newest campaign; None if there is none."""
    query = _matching(select(col(Campaign.id)), project_id, wanted)
    found = await connection.execute(query.order_by(col(Campaign.id).desc()).limit(1))
    newest_id: UUID | None = found.scalar_one_or_none()
    return newest_id


async def some(connection: AsyncConnection, project_id: UUID, ids: Sequence[UUID]) -> list[CampaignSummary]:
    """Those of the campaigns `ids` that exist, in any order."""
    found = await connection.execute(
        select(*campaign_row.COLUMNS).where(col(Campaign.project_id) == project_id, col(Campaign.id).in_(ids))
    )
    return await summaries(connection, found.all())


async def remove(ledger: Ledger, campaign: CampaignRef) -> None:
    """Deletes a campaign while nothing was sent. Its recipients go in chunks, so that others need not wait for a large
    list; a deletion that was cut off is continued by the next."""
    while True:
        async with ledger.write() as connection:
            row = await campaign_row.lock(connection, campaign)
            campaign_row.require_editable(row, "DELETE")
            await campaign_row.require_no_import(connection, campaign.id, "DELETE")
            if row.status != CampaignStatus.DRAFT:
                # A schedule that comes due between two chunks must not send to the recipients that are left.
                await campaign_row.move(connection, row, CampaignStatus.DRAFT, "DELETE", scheduled_at=None)
            gone = await _delete_chunk(connection, campaign.id)
            if gone < DELETE_CHUNK_ROWS:
                await rate_limits.put(connection, campaign_scope(campaign.id), None)
                await connection.execute(delete(Campaign).where(col(Campaign.id) == campaign.id))
                return


async def _delete_chunk(connection: AsyncConnection, campaign_id: UUID) -> int:
    chunk = select(col(Recipient.id)).where(recipients_after(campaign_id)).order_by(*IN_ORDER).limit(DELETE_CHUNK_ROWS)
    gone = await connection.execute(delete(Recipient).where(col(Recipient.id).in_(chunk)))
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign_id).values(total=col(Campaign.total) - gone.rowcount)
    )
    return gone.rowcount


async def add_inline(
    connection: AsyncConnection, campaign: CampaignRef, recipients: Sequence[NewRecipient], *, lines: int
) -> int:
    """Stores recipients that came inside a request, as an import that is done; returns how many. `lines` were given,
    duplicates included."""
    created = await connection.execute(
        insert(Import)
        .values(
            campaign_id=campaign.id,
            format="inline",
            state=ImportState.DONE.value,
            lines=lines,
            duplicates=lines - len(recipients),
            created_at=db_now(),
            updated_at=db_now(),
            finished_at=db_now(),
        )
        .returning(col(Import.id))
    )
    import_id = created.scalar_one()
    stored = await store(connection, Target(campaign, import_id), recipients, 0)
    erased = [{"line": line, "error": ERASED} for line in stored.erased]
    await connection.execute(
        update(Import)
        .where(col(Import.id) == import_id)
        .values(accepted=stored.accepted, invalid=len(erased), problems=orjson.dumps(erased).decode())
    )
    await connection.execute(
        update(Campaign).where(col(Campaign.id) == campaign.id).values(total=col(Campaign.total) + stored.accepted)
    )
    return stored.accepted


def unique(given: Sequence[RecipientIn], compiled: Content) -> list[NewRecipient]:
    """The recipients of a request body, each mailbox once. Raises InvalidError that points to the invalid ones."""
    recipients: dict[str, NewRecipient] = {}
    errors = []
    for index, one in enumerate(given):
        try:
            recipient = check_recipient(index + 1, one.email, one.data, compiled)
        except RecipientError as error:
            member = f"data/{error.field}" if error.field else "email"
            errors.append({"pointer": f"#/recipients/{index}/{member}", "detail": error.reason})
        else:
            recipients.setdefault(recipient.key, recipient)
    if errors:
        raise InvalidError(errors)
    return list(recipients.values())


def _matching(query: Select[Any], project_id: UUID, wanted: Filter) -> Select[Any]:
    query = query.where(col(Campaign.project_id) == project_id)
    if wanted.statuses:
        query = query.where(col(Campaign.status).in_([status.value for status in wanted.statuses]))
    if not wanted.include_tests:
        query = query.where(col(Campaign.test_of).is_(None))
    return query
