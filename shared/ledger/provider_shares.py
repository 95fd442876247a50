"""How many emails each sender may have in flight to a provider over a relay: shares of one limit.

The shares of all senders never add up to more than the limit, however they come and go. A sender that has emails for
the provider claims a share; it is lent for the time of a lease, and one that is not needed is given back. Senders that
claim at the same time get equal shares; what is left over goes round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import clock
from shared.ledger.models import ProviderShare

ROUND_SECONDS = 10.0
"""How long a sender has the share that is left over, if there are more senders than emails may be in flight."""

ANCHOR = ""
"""The owner of the row that is locked while shares change."""


class Key(NamedTuple):
    """One limit."""

    relay: str
    provider: str


@dataclass(frozen=True, slots=True)
class Need:
    """What a sender needs of one limit."""

    key: Key
    limit: int  # emails in flight of all senders
    in_flight: int  # of this sender
    claims: bool  # it has emails for this provider, or had some lately


async def settle(
    connection: AsyncConnection, owner: str, needs: Sequence[Need], lease_seconds: float
) -> dict[Key, int]:
    """Claims, renews and gives back shares of `owner`; returns how many emails it may have in flight by key.

    If more are in flight, none starts until there are fewer; they count meanwhile. Valid for `lease_seconds` from
    before the call, once the transaction is committed."""
    return {
        need.key: await _settle(connection, owner, need, lease_seconds)
        for need in sorted(needs, key=lambda need: need.key)  # one order everywhere, to avoid deadlocks
    }


async def _settle(connection: AsyncConnection, owner: str, need: Need, lease_seconds: float) -> int:
    table, (relay, provider) = ProviderShare, need.key
    here = (col(table.relay) == relay, col(table.provider) == provider)
    anchor = {"relay": relay, "provider": provider, "owner": ANCHOR, "emails": 0, "lease_until": 0.0}
    locks = (*here, col(table.owner) == ANCHOR)
    while await rows.lock(connection, table.emails, *locks, returning=(col(table.owner),)) is None:
        await connection.execute(rows.insert_missing(connection, table).values(**anchor))
    now = await clock(connection)
    found = await connection.execute(
        select(col(table.owner), col(table.emails)).where(
            *here, col(table.owner).not_in([ANCHOR, owner]), col(table.lease_until) > now
        )
    )
    others = {row[0]: int(row[1]) for row in found}
    share = 0
    if need.claims:
        fair = fair_share(need.limit, [*others, owner], owner, int(now // ROUND_SECONDS))
        share = max(0, min(fair, need.limit - sum(others.values())))
    emails = max(need.in_flight, share)
    if emails or need.claims:
        values = {**anchor, "owner": owner, "emails": emails, "lease_until": now + lease_seconds}
        await rows.upsert(connection, table, values, key=("relay", "provider", "owner"))
    else:
        gone = col(table.owner) == owner if others else col(table.owner).in_([owner, ANCHOR])
        await connection.execute(delete(table).where(*here, gone))
    await connection.execute(delete(table).where(*here, col(table.owner) != ANCHOR, col(table.lease_until) <= now))
    return share


def fair_share(limit: int, claimants: Sequence[str], owner: str, turn: int) -> int:
    """The equal share of one of several claimants. What is left over goes to some of them, to others at each turn."""
    each, left = divmod(limit, len(claimants))
    position = (sorted(claimants).index(owner) + turn) % len(claimants)
    return each + (position < left)
