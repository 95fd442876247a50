"""The schema: from nothing to head and back on both databases, exactly as the models say."""

import asyncio
import sys
from uuid import uuid4

import pytest
from alembic.util.exc import CommandError
from sqlalchemy import Uuid, bindparam, inspect, text
from sqlmodel import SQLModel

from shared.health import database_check
from shared.ledger import domains, migrate
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT


async def tables(url: str) -> set[str]:
    ledger = Ledger(url, pool_size=1)
    try:
        async with ledger.read() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    finally:
        await ledger.close()


async def test_upgrade_creates_what_the_models_say_and_downgrade_leaves_nothing(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database_url)
    await asyncio.to_thread(migrate.check, empty_database_url)
    assert await tables(empty_database_url) == {*SQLModel.metadata.tables, "alembic_version"}
    await asyncio.to_thread(migrate.upgrade, empty_database_url)
    await asyncio.to_thread(migrate.downgrade, empty_database_url, "base")
    assert await tables(empty_database_url) == {"alembic_version"}


async def test_two_concurrent_upgrades_do_it_once(empty_database_url: str) -> None:
    program = "import sys; from shared.ledger import migrate; migrate.upgrade(sys.argv[1])"
    both = [await asyncio.create_subprocess_exec(sys.executable, "-c", program, empty_database_url) for _ in range(2)]
    assert [await process.wait() for process in both] == [0, 0]
    await asyncio.to_thread(migrate.check, empty_database_url)


async def test_a_model_without_a_migration_is_noticed(database_url: str) -> None:
    ledger = Ledger(database_url, pool_size=1)
    try:
        async with ledger.write() as connection:
            await connection.execute(text("ALTER TABLE campaign DROP COLUMN priority"))
    finally:
        await ledger.close()
    with pytest.raises(CommandError, match="New upgrade operations detected"):
        await asyncio.to_thread(migrate.check, database_url)


async def test_the_current_revision_is_known(empty_database_url: str) -> None:
    ledger = Ledger(empty_database_url, pool_size=1)
    try:
        async with ledger.read() as connection:
            assert await migrate.current(connection) is None
        await asyncio.to_thread(migrate.upgrade, empty_database_url)
        async with ledger.read() as connection:
            assert await migrate.current(connection) == migrate.head()
    finally:
        await ledger.close()


async def test_a_process_is_ready_on_a_later_schema(database_url: str) -> None:
    """A process of this release meets it while the next release is being started. An older schema does not work."""
    ledger = Ledger(database_url, pool_size=1)
    try:
        check = database_check(ledger)
        assert await check() == ""
        for revision, problem in (("later", ""), (migrate.revisions()[0], "run `vashsender db upgrade`")):
            async with ledger.write() as connection:
                await connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
            assert problem in await check()
            assert bool(await check()) == bool(problem)
    finally:
        await ledger.close()


OLD_CAMPAIGN = """INSERT INTO campaign
(id, project_id, name, from_email, envelope_from, content, status, delivery, created_at)
VALUES (:id, :project_id, 'old', :sender, :envelope, '{}', 'finished', 'at_least_once', :at)"""


async def test_after_an_update_a_project_owns_the_domains_it_was_sent_from(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database_url, "0006")
    ledger = Ledger(empty_database_url, pool_size=1)
    other = uuid4()
    used = [
        (DEFAULT_PROJECT, "news@Example.test", "bounce@bounces.test", 2.0),
        (DEFAULT_PROJECT, "shop@example.test", "shop@example.test", 3.0),
        (other, "team@other.test", "team@other.test", 5.0),
        (other, "late@example.test", "late@example.test", 9.0),
    ]
    try:
        async with ledger.write() as connection:
            new = text("INSERT INTO project (id, name, created_at) VALUES (:id, 'other', 0)")
            await connection.execute(new.bindparams(bindparam("id", type_=Uuid())), {"id": other})
            ids = (bindparam("id", type_=Uuid()), bindparam("project_id", type_=Uuid()))
            for project_id, sender, envelope, at in used:
                row = {"id": uuid4(), "project_id": project_id, "sender": sender, "envelope": envelope, "at": at}
                await connection.execute(text(OLD_CAMPAIGN).bindparams(*ids), row)
        await asyncio.to_thread(migrate.upgrade, empty_database_url)
        async with ledger.read() as connection:
            found = await domains.list_domains(connection)
    finally:
        await ledger.close()
    assert [(one.name, one.project, one.made_by) for one in found] == [
        ("bounces.test", "default", "used"),
        ("example.test", "default", "used"),
        ("other.test", "other", "used"),
    ]
