"""What is left of deleted recipients: enough for their unsubscribe links to keep working.

A link names a recipient by its id. Deleted with its row is the address, so a keyed hash of it stays, with which the
address can be suppressed but not found out (shared.ledger.hashed). One row spans up to 65,536 ids, with 34 octets for
each recipient there is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from struct import Struct
from uuid import UUID

from sqlalchemy import bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.addresses import Address
from shared.ledger import hashed
from shared.ledger.forgetting_tables import ForgottenPeople
from shared.ledger.models import Campaign, Recipient

WIDTH = 1 << 16
"""Ids that one row may span."""

IDS_AT_ONCE = 1000

_ONE = Struct(">H32s")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A recipient of a forgotten campaign."""

    recipient_id: int
    campaign_id: UUID
    project_id: UUID
    #: If its row is deleted, without `email`; its `key` is the hash, as a suppression has it.
    address: Address


async def keep(connection: AsyncConnection, campaign_id: UUID, hashed_keys: Mapping[int, str]) -> None:
    """Keeps the keys of recipients of a campaign, by ascending id. All ids lie within WIDTH."""
    first_id, last_id = min(hashed_keys), max(hashed_keys)
    packed = b"".join(
        _ONE.pack(recipient_id - first_id, bytes.fromhex(key.removeprefix(hashed.PREFIX)))
        for recipient_id, key in hashed_keys.items()
    )
    await connection.execute(
        insert(ForgottenPeople).values(first_id=first_id, last_id=last_id, campaign_id=campaign_id, people=packed)
    )


async def find(connection: AsyncConnection, ids: Collection[int]) -> Mapping[int, Forgotten]:
    """Those of the recipients whose campaigns are forgotten."""
    found: dict[int, Forgotten] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        # First those whose rows are still there: a row that is not has left its hash.
        rows = await connection.execute(_MARKED, {"ids": list(ids)[start : start + IDS_AT_ONCE]})
        for row in rows:
            found[row.id] = Forgotten(row.id, row.campaign_id, row.project_id, Address(row.email, row.email_key))
    for recipient_id in ids:
        if recipient_id not in found and (one := await _deleted(connection, recipient_id)) is not None:
            found[recipient_id] = one
    return found


_MARKED = (
    select(
        col(Recipient.id),
        col(Recipient.campaign_id),
        col(Campaign.project_id),
        col(Recipient.email),
        col(Recipient.email_key),
    )
    .join(Campaign, col(Campaign.id) == col(Recipient.campaign_id))
    .where(col(Recipient.id).in_(bindparam("ids", expanding=True)), col(Campaign.forgotten_at).is_not(None))
)


async def _deleted(connection: AsyncConnection, recipient_id: int) -> Forgotten | None:
    # Ranges of campaigns whose imports ran at the same time overlap.
    ranges = await connection.execute(
        select(
            col(ForgottenPeople.first_id),
            col(ForgottenPeople.campaign_id),
            col(ForgottenPeople.people),
            col(Campaign.project_id),
        )
        .join(Campaign, col(Campaign.id) == col(ForgottenPeople.campaign_id))
        .where(
            col(ForgottenPeople.first_id).between(recipient_id - WIDTH + 1, recipient_id),
            col(ForgottenPeople.last_id) >= recipient_id,
        )
    )
    for row in ranges:
        digest = dict(_ONE.iter_unpack(row.people)).get(recipient_id - row.first_id)
        if digest is not None:
            address = Address("", hashed.PREFIX + digest.hex())
            return Forgotten(recipient_id, row.campaign_id, row.project_id, address)
    return None
