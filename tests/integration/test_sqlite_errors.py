"""SQLite's errors that end by themselves or by an operator's help: each is really caused, and is waited out."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.ledger import sqlite
from shared.ledger.database import Ledger, is_unavailable


def locked(file: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another process holds the write lock for longer than we wait."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    event.listen(ledger.engine.sync_engine, "engine_disposed", lambda _: other.close())
    return ""


def full(_file: Path, _ledger: Ledger, _: pytest.MonkeyPatch) -> str:
    return "PRAGMA max_page_count = 1"


def read_only(_file: Path, _ledger: Ledger, _: pytest.MonkeyPatch) -> str:
    return "PRAGMA query_only = ON"


def damaged(file: Path, _ledger: Ledger, _: pytest.MonkeyPatch) -> str:
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (file.stat().st_size - 4096))
    return ""


def no_database(file: Path, _ledger: Ledger, _: pytest.MonkeyPatch) -> str:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()
    file.write_bytes(b"this is no database" * 1000)
    return ""


def no_folder(file: Path, _ledger: Ledger, _: pytest.MonkeyPatch) -> str:
    file.parent.rename(file.parent.with_name("moved"))
    return ""


CASES = {
    "SQLITE_BUSY": locked,
    "SQLITE_FULL": full,
    "SQLITE_READONLY": read_only,
    "SQLITE_CORRUPT": damaged,
    "SQLITE_NOTADB": no_database,
    "SQLITE_CANTOPEN": no_folder,
}


@pytest.fixture
def file(sqlite_url: str, tmp_path: Path) -> Path:
    """A ledger in a folder that a test may spoil."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    copy = folder / "ledger.db"
    copy.write_bytes(Path(sqlite_url.partition(":///")[2]).read_bytes())
    return copy


@pytest.mark.parametrize("at_once", [False, True], ids=["write", "write_at_once"])
@pytest.mark.parametrize("name", CASES)
async def test_an_error_of_sqlite_is_waited_out(
    name: str, at_once: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    ledger = Ledger(f"sqlite+aiosqlite:///{file}")
    statement = CASES[name](file, ledger, monkeypatch)
    try:
        with pytest.raises((SQLAlchemyError, sqlite3.Error)) as caught:
            await write(ledger, statement, at_once=at_once)
        said = getattr(caught.value, "orig", caught.value)
        assert isinstance(said, sqlite3.Error)
        assert said.sqlite_errorname.startswith(name), said
        assert is_unavailable(caught.value)
        assert ledger.trouble
    finally:
        await ledger.close()
    # The driver does not wait for the thread of a connection that it could not open, which still needs this loop.
    async with asyncio.timeout(30):
        while set(threading.enumerate()) - before:  # noqa: ASYNC110 - a thread has no event
            await asyncio.sleep(0.01)


async def write(ledger: Ledger, first: str, *, at_once: bool) -> None:
    async def work(connection: AsyncConnection) -> None:
        if first:
            await connection.execute(text(first))
        for number in range(100):
            new = {"name": f"{number}", "value": "x" * 10_000}
            await connection.execute(text("INSERT INTO bookmark (name, value, at) VALUES (:name, :value, 0)"), new)

    if at_once:
        await ledger.write_at_once(work)
    else:
        async with ledger.write() as connection:
            await work(connection)
