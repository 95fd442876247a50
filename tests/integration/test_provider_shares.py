"""Shares of what may be in flight to a provider: they never add up to more than the limit, and come back."""

import asyncio
import random

from sqlalchemy import func, select, update
from sqlmodel import col

from shared.ledger import provider_shares
from shared.ledger.database import Ledger
from shared.ledger.models import ProviderShare
from shared.ledger.provider_shares import Key, Need

KEY = Key("mx", "gmail")
LEASE_SECONDS = 15.0


async def settle(ledger: Ledger, owner: str, limit: int = 5, in_flight: int = 0, *, claims: bool = True) -> int:
    async with ledger.write() as connection:
        need = Need(KEY, limit, in_flight, claims)
        return (await provider_shares.settle(connection, owner, [need], LEASE_SECONDS))[KEY]


async def rows(ledger: Ledger) -> int:
    async with ledger.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(ProviderShare)) or 0)


async def test_one_sender_has_all_of_it(ledger: Ledger) -> None:
    assert await settle(ledger, "a") == 5
    assert await settle(ledger, "a") == 5


async def test_a_second_sender_gets_its_part_once_the_first_has_given_it_up(ledger: Ledger) -> None:
    assert await settle(ledger, "a") == 5
    assert await settle(ledger, "b") == 0
    first = await settle(ledger, "a", in_flight=5)
    assert first in (2, 3), "though 5 are in flight: none starts until there are fewer"
    assert await settle(ledger, "b") == 0, "those 5 count until they have ended"
    assert await settle(ledger, "a", in_flight=first) == first
    assert await settle(ledger, "b") == 5 - first


async def test_what_is_not_needed_is_given_back(ledger: Ledger) -> None:
    assert await settle(ledger, "a") == 5
    assert await settle(ledger, "a", in_flight=1, claims=False) == 0
    assert await settle(ledger, "b") in (2, 3), "an equal share, as long as one email is in flight"
    assert await settle(ledger, "a", claims=False) == 0
    assert await settle(ledger, "b") == 5
    assert await settle(ledger, "b", claims=False) == 0
    assert await rows(ledger) == 0


async def test_the_share_of_a_dead_sender_ends_with_its_lease(ledger: Ledger) -> None:
    assert await settle(ledger, "dead") == 5
    assert await settle(ledger, "b") == 0
    async with ledger.write() as connection:
        dead = col(ProviderShare.owner) == "dead"
        await connection.execute(update(ProviderShare).where(dead).values(lease_until=1.0))
    assert await settle(ledger, "b") == 5


async def test_the_sum_is_never_above_the_limit(ledger: Ledger) -> None:
    """Eight senders come and go at once; each keeps as many in flight as it may."""
    limit, busy = 7, dict[str, int]()

    async def one(owner: str, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            in_flight = chance.randint(0, busy.get(owner, 0))
            share = await settle(ledger, owner, limit, in_flight, claims=chance.random() < 0.7)
            busy[owner] = max(share, in_flight)
            async with ledger.read() as connection:
                total = await connection.scalar(select(func.sum(col(ProviderShare.emails)))) or 0
            assert total <= limit

    await asyncio.gather(*(one(f"sender-{number}", number) for number in range(8)))
