"""Unsubscribing: who a link was made for, and what it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.usecases.suppressions import Entry, suppress
from shared import logs
from shared.addresses import Address
from shared.ledger import outbox
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import Campaign, Recipient
from shared.signing import TokenError
from shared.unsubscribe import read_token

log = logs.get()


@dataclass(frozen=True, slots=True)
class Subscriber:
    """The person an unsubscribe link was made for."""

    project_id: UUID
    campaign_id: UUID
    recipient_id: int
    address: Address


async def subscriber(connection: AsyncConnection, secrets: Sequence[bytes], token: str) -> Subscriber | None:
    """None if the token is damaged, or its recipient is no longer known. `secrets` are the signing keys."""
    try:
        campaign_id, recipient_id = read_token(secrets, token)
    except TokenError:
        return None
    if recipient_id >= 2**63:
        return None
    found = await connection.execute(
        select(col(Campaign.project_id), col(Recipient.email), col(Recipient.email_key))
        .join_from(Recipient, Campaign, col(Campaign.id) == col(Recipient.campaign_id))
        .where(col(Recipient.id) == recipient_id, col(Recipient.campaign_id) == campaign_id)
    )
    row = found.first()
    return (
        None
        if row is None
        else Subscriber(row.project_id, campaign_id, recipient_id, Address(row.email, row.email_key))
    )


async def unsubscribe(connection: AsyncConnection, person: Subscriber) -> None:
    """Suppresses the address in the campaign's project. May be repeated."""
    entry = Entry(person.address, "unsubscribed", campaign_id=person.campaign_id)
    if await suppress(connection, person.project_id, [entry]):
        fact = Fact(FactType.RECIPIENT_UNSUBSCRIBED, person.campaign_id, person.recipient_id, {"via": "link"})
        await outbox.tell(connection, person.project_id, [fact])
        log.info("recipient.unsubscribed", campaign_id=str(person.campaign_id))
