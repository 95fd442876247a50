"""A client that is cut off in the middle of a transaction keeps its locks only for a moment."""

import asyncio
from unittest.mock import AsyncMock

import asyncpg
import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from shared.ledger import connect
from shared.ledger.database import Ledger, is_unavailable
from shared.ledger.models import Batch
from tests.support.seeds import seed_campaign

PATIENCE_SECONDS = 60


async def test_the_locks_of_a_silent_transaction_end(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connect.LOST_CLIENT, "idle_in_transaction_session_timeout", "300ms")
    ledger = Ledger(postgresql_url, pool_size=2)
    try:
        [batch_id] = (await seed_campaign(ledger, 1, batch_size=1)).batch_ids
        touch = update(Batch).where(col(Batch.id) == batch_id).values(pending=Batch.pending)
        silent = await ledger.engine.connect()
        await silent.execute(touch)
        async with asyncio.timeout(PATIENCE_SECONDS), ledger.write() as connection:
            await connection.execute(touch)
        with pytest.raises(DBAPIError) as caught:
            await silent.execute(touch)
        assert is_unavailable(caught.value)
        await silent.invalidate()
    finally:
        await ledger.close()


async def test_a_connection_whose_driver_lost_step_is_not_used_again(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(postgresql_url, pool_size=1)
    which = text("SELECT pg_backend_pid()")
    try:
        async with ledger.read() as connection:
            before = await connection.scalar(which)
        async with ledger.read() as connection:
            with monkeypatch.context() as patch:
                lost = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
                patch.setattr(asyncpg.Connection, "prepare", AsyncMock(side_effect=lost))
                with pytest.raises(DBAPIError) as caught:
                    await connection.scalar(text("SELECT 1"))
        assert is_unavailable(caught.value)
        async with ledger.read() as connection:
            assert await connection.scalar(which) != before
    finally:
        await ledger.close()


async def test_the_limit_is_shorter_than_a_lease(postgresql_url: str) -> None:
    ledger = Ledger(postgresql_url, pool_size=1)
    try:
        async with ledger.read() as connection:
            assert await connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "10s"
    finally:
        await ledger.close()
