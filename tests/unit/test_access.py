"""The accounts of an installation: their files, and rights that name existing tables and queues."""

import ast
import base64
import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlmodel import SQLModel

from cli.access_files import DEFINITIONS, RENEWABLE, ROLES_SQL, Servers, write
from cli.access_rights import CONSUMES, PUBLISHER, SERVICES, permissions, topic_permissions
from cli.main import run
from shared import events, topology
from shared.errors import ConfigurationError
from shared.ledger.rights import RIGHTS
from shared.reception import PUBLISHES
from shared.signing import Use, derived_key

ROOT = Path(__file__).parents[2]
EVENTS = {event.__name__: event for event in events.Event.__subclasses__() if event.__module__ == events.__name__}


def passwords(folder: Path) -> dict[str, str]:
    return {path.name: urlsplit(path.read_text()).password or "" for path in folder.glob("*_url")}


def test_rights_cover_every_table_and_name_only_existing_columns() -> None:
    """Fails for a new table until its rights are defined."""
    tables = SQLModel.metadata.tables
    named = {table for rights in RIGHTS.values() for table in rights}
    assert named == set(tables), "give the table a place in shared.ledger.rights.RIGHTS"
    for rights in RIGHTS.values():
        for table, given in rights.items():
            for columns in given.values():
                assert set(columns) <= set(tables[table].columns.keys()), table


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_publish_only_the_events_in_its_source(service: str) -> None:
    made = {
        node.func.id
        for path in (ROOT / "services" / service).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVENTS
    }
    assert {event.__name__ for event in PUBLISHES[service]} == made


@pytest.mark.parametrize("service", SERVICES)
def test_rights_on_the_broker_are_exact(service: str) -> None:
    rights, topics = permissions(service), topic_permissions(service)
    queues = {queue.name for queue in topology.QUEUES} | {topology.DEAD}
    assert {name for name in queues if re.search(rights["read"], name)} == set(CONSUMES[service])
    assert not re.search(rights["write"], topology.DEAD_EXCHANGE)
    assert not re.search(rights["configure"], topology.EXCHANGE)
    keys = {key for queue in topology.QUEUES for key in queue.routing_keys}
    assert bool(re.search(rights["write"], topology.EVENTS_EXCHANGE)) == (service == PUBLISHER)
    allowed = {key for key in keys if re.search(topics["write"], key)}
    assert allowed == {event.ROUTING_KEY for event in PUBLISHES[service]}


def test_files_are_kept_and_agree_with_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "access"
    first = write(folder, Servers("rabbitmq", "postgres:6432", tls=True))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in first} == {0o644}
    assert (folder / "api_amqp_url").read_text().endswith("@rabbitmq:5671/vashsender")
    assert (folder / "sender_database_url").read_text().endswith("@postgres:6432/vashsender?sslmode=verify-full")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert write(folder, Servers("elsewhere", "elsewhere")) == []
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    known = passwords(folder)
    assert len(set(known.values())) == len(known), "no two accounts share a password"
    for user in json.loads((folder / DEFINITIONS).read_text())["users"]:
        role = user["name"].removeprefix("vashsender_")
        password = next(secret for name, secret in known.items() if name.startswith(role) and "database" not in name)
        stored = base64.b64decode(user["password_hash"])
        assert stored[4:] == hashlib.sha256(stored[:4] + password.encode()).digest()
    sql = (folder / ROLES_SQL).read_text()
    assert not [password for password in known.values() if password in sql]


def test_a_renewed_account_has_a_new_password_at_the_same_place(tmp_path: Path) -> None:
    write(tmp_path, Servers("rabbitmq", "postgres"))
    before, key = passwords(tmp_path), (tmp_path / "secret_key").read_text()
    written = {path.name for path in write(tmp_path, Servers(), ["sender", "secret_key"])}
    accounts = {"sender_amqp_url", "sender_database_url", DEFINITIONS, ROLES_SQL}
    assert written == accounts | {"secret_key", "unsubscribe_key"}
    after = passwords(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"sender_amqp_url", "sender_database_url"}
    assert "@rabbitmq:5672/" in (tmp_path / "sender_amqp_url").read_text()
    newest, old = (tmp_path / "secret_key").read_text().split(",")
    assert (old, len(newest) >= 32) == (key, True)
    derived = [derived_key(secret.encode(), Use.UNSUBSCRIBE).decode() for secret in (newest, old)]
    assert (tmp_path / "unsubscribe_key").read_text() == ",".join(derived)  # the first one signs
    assert not write(tmp_path, Servers())


def test_the_senders_key_follows_from_the_newest_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, Servers())
    (tmp_path / "secret_key").write_text("b" * 40 + " , " + "a" * 40 + "\n")
    assert {path.name for path in write(tmp_path, Servers())} == {"unsubscribe_key"}
    assert run(["access", "unsubscribe-key", str(tmp_path / "secret_key")]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "unsubscribe_key").read_text()
    (tmp_path / "secret_key").write_text("short")
    assert run(["access", "unsubscribe-key", str(tmp_path / "secret_key")]) == 78
    assert run(["access", "unsubscribe-key", str(tmp_path / "missing")]) == 78


def test_an_interrupted_run_is_completed(tmp_path: Path) -> None:
    write(tmp_path, Servers())
    (tmp_path / "watchdog_database_url").unlink()
    assert {path.name for path in write(tmp_path, Servers())} == {"watchdog_database_url", ROLES_SQL}


@pytest.mark.parametrize("server", ["", "a b", "user@host", "host/path", "host:port", "::1"])
def test_a_server_must_be_a_host(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST"):
        write(tmp_path, Servers(server))


def test_the_command_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "access"
    assert run(["access", "new", str(folder), "--broker-host", "[::1]:5", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert sorted(written) == sorted(path.name for path in folder.iterdir())
    assert run(["access", "new", str(folder)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run(["access", "new", str(folder), "--renew", "everything"]) == 64
    assert RENEWABLE[0] in capsys.readouterr().err
    (folder / "api_amqp_url").write_text("")
    assert run(["access", "new", str(folder), "--renew", "api"]) == 78
