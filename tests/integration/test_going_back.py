"""Going back to the previous version: it accepts the newer schema and changes nothing."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from cli.local.preparation import upgrade_database
from cli.main import run
from cli.settings import LocalSettings
from shared.ledger import migrate
from shared.ledger.database import Ledger

LATER = "9999"


def test_a_newer_schema_is_left_unchanged(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VASHSENDER_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("VASHSENDER_VAR_DIR", str(tmp_path))
    config = LocalSettings()
    assert f"from nothing to {migrate.head()}" in upgrade_database(config)
    assert "already at" in upgrade_database(config)
    assert run(["db", "check"]) == 0

    asyncio.run(_set_revision(empty_database_url, LATER))
    assert f"left at {LATER}" in upgrade_database(config)
    capsys.readouterr()
    assert run(["db", "check"]) == 0
    assert f"at {LATER}, newer than {migrate.head()}" in capsys.readouterr().err

    asyncio.run(_set_revision(empty_database_url, migrate.revisions()[0]))
    assert run(["db", "check"]) == 78


async def _set_revision(url: str, revision: str) -> None:
    ledger = Ledger(url, pool_size=1)
    try:
        async with ledger.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})
    finally:
        await ledger.close()
