"""The databases that other tests use."""

from sqlalchemy import text

from shared.ledger import migrate
from shared.ledger.database import Ledger


async def test_a_ledger_is_empty_and_has_the_newest_schema(database_url: str) -> None:
    ledger = Ledger(database_url)
    try:
        async with ledger.read() as connection:
            assert await migrate.current(connection) == migrate.head()
            assert (await connection.execute(text("SELECT count(*) FROM recipient"))).scalar_one() == 0
    finally:
        await ledger.close()


def test_an_empty_database_can_be_migrated(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    migrate.check(empty_database_url)
