"""The verbs project, domain, key and audit, on a ledger without services."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import run
from shared.ledger import keys
from shared.ledger.database import Ledger
from shared.scopes import Scope
from tests.support.ended import ended_campaign

Command = Callable[..., str]


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("VASHSENDER_DATABASE_URL", database_url)
    monkeypatch.setenv("VASHSENDER_VAR_DIR", str(tmp_path))

    def say(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run(list(words)) == code, capsys.readouterr()
        said = capsys.readouterr()
        return (said.out if code == 0 else said.err).strip()

    return say


def found(database_url: str, secret: str) -> keys.Key | None:
    async def look() -> keys.Key | None:
        ledger = Ledger(database_url, pool_size=1)
        try:
            async with ledger.read() as connection:
                return await keys.find(connection, secret=secret)
        finally:
            await ledger.close()

    return asyncio.run(look())


def test_a_team_gets_a_project_a_domain_and_a_key(command: Command, database_url: str) -> None:
    command("project", "create", "shop")
    assert "already" in command("project", "create", "shop", code=65)
    command("domain", "add", "Shop.Example.TEST", "--project", "shop")
    assert "another project" in command("domain", "add", "shop.example.test", code=65)
    secret = command("key", "create", "web", "--project", "shop", "--scope", "campaigns:read", "--expires-days", "30")
    key = found(database_url, secret)
    assert key is not None
    assert (key.project, key.scopes, key.expires_at is not None) == ("shop", frozenset({Scope.CAMPAIGNS_READ}), True)
    assert "the scopes are" in command("key", "create", "web", "--scope", "everything", code=65)
    rotated = command("key", "rotate", str(key.id), "--overlap-hours", "0")
    assert found(database_url, secret) is None
    assert found(database_url, rotated) is not None
    command("project", "rename", "shop", "store")
    assert [one["name"] for one in json.loads(command("domain", "list", "--project", "store", "--json"))] == [
        "shop.example.test"
    ]
    command("domain", "remove", "shop.example.test", "--yes")
    command("project", "close", "store", "--yes")
    assert found(database_url, rotated) is None
    assert "is closed" in command("key", "create", "late", "--project", "store", code=65)
    assert "cannot be closed" in command("project", "close", "default", "--yes", code=65)


def test_limits_of_a_project_are_set_and_removed(command: Command) -> None:
    changed = json.loads(
        command("project", "limits", "default", "--tests-per-hour", "5", "--per-second", "20", "--json")
    )
    assert (changed["tests_per_hour"], changed["emails_per_second"], changed["emails_per_day"]) == (5, 20, None)
    more = json.loads(command("project", "limits", "default", "--per-day", "1000", "--json"))
    assert (more["tests_per_hour"], more["emails_per_second"], more["emails_per_day"]) == (5, 20, 1000)
    gone = json.loads(command("project", "limits", "default", "--reset", "--json"))
    assert set(gone.values()) == {None}


def test_what_commands_change_is_in_the_audit(command: Command) -> None:
    command("project", "create", "shop")
    command("key", "create", "web", "--project", "shop")
    command("project", "create", "shop", code=65)
    entries = [json.loads(line) for line in command("audit", "list", "--json").splitlines()]
    assert [(one["via"], one["action"], one["result"]) for one in entries] == [
        ("command", "key create", "done"),
        ("command", "project create", "done"),
    ]
    assert entries[0]["project_id"] == entries[1]["project_id"]
    command("audit", "forget", "--older-than-days", "400")
    assert len(command("audit", "list", "--json").splitlines()) == 2


def test_retention_is_shown_set_and_carried_out(
    command: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare() -> None:
        ledger = Ledger(database_url, pool_size=1)
        try:
            await ended_campaign(ledger, 12, days_ago=40)
        finally:
            await ledger.close()

    asyncio.run(prepare())
    command("project", "create", "shop")
    assert "Pass --yes" in command("retention", "set", "shop", "30", code=64)
    assert "there is no project" in command("retention", "set", "other", "30", "--yes", code=65)
    for wrong in ("0", "-1", "ever", "36501", "1.5"):
        assert "neither a number of days" in command("retention", "set", "--yes", "--", "shop", wrong, code=64)
    command("retention", "set", "shop", "30", "--yes")
    command("retention", "set", "default", "forever")
    shown = {one["project"]: one for one in json.loads(command("retention", "show", "--json"))}
    assert (shown["shop"]["days"], shown["default"]["days"], shown["default"]["due_campaigns"]) == (30, 0, 0)
    monkeypatch.setenv("VASHSENDER_RETENTION_DAYS", "35")
    monkeypatch.setenv("VASHSENDER_TRANSACTION_SECONDS", "0.5")
    command("retention", "set", "default", "default", "--yes")
    table = command("retention", "show")
    assert "35 days (setting)" in table
    command("retention", "run", "--yes")
    shown = {one["project"]: one for one in json.loads(command("retention", "show", "--json"))}
    assert (shown["default"]["due_campaigns"], shown["default"]["kept_recipients"]) == (0, 0)
    noted = [json.loads(line)["action"] for line in command("audit", "list", "--json").splitlines()]
    assert noted[:2] == ["retention run", "retention set"]
