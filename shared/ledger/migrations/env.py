"""Alembic's environment: one connection, one transaction, both databases."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import shared.ledger.models
import shared.ledger.outbox_tables
import shared.ledger.tenants
import shared.ledger.webhook_tables  # noqa: F401 - fills SQLModel.metadata
from shared.ledger import rights
from shared.ledger.database import Ledger


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=False,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _online() -> None:
    ledger = Ledger(context.config.attributes["url"], pool_size=1, application="vashsender-migrate")
    try:
        async with ledger.write() as connection:
            if not ledger.is_sqlite:
                # Two that start at once: the second waits here and then finds nothing to do.
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(828277)")
            await connection.run_sync(_run)
            if not ledger.is_sqlite and context.config.attributes.get("grant"):
                await rights.grant(connection)
    finally:
        await ledger.close()


asyncio.run(_online())
