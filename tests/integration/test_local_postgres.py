"""The private PostgreSQL cluster: durable or fast, killed, restarted, and no process left behind."""

from pathlib import Path

import pytest
from sqlalchemy import text

from cli.local import LocalError
from cli.local.ports import PortTakenError, is_free
from cli.local.postgres import PrivatePostgres
from shared.ledger.database import Ledger


async def test_its_url_connects(postgres: PrivatePostgres) -> None:
    ledger = Ledger(postgres.url())
    try:
        async with ledger.read() as connection:
            assert (await connection.execute(text("SELECT lower('ЖУК')"))).scalar_one() == "жук"
    finally:
        await ledger.close()


def test_a_database_copies_its_template(postgres: PrivatePostgres) -> None:
    postgres.create_database("template_of_test")
    postgres.query("CREATE TABLE kept (id int)", "template_of_test")
    try:
        postgres.create_database("copy_of_test", template="template_of_test")
        assert postgres.query("SELECT count(*) FROM kept", "copy_of_test") == "0"
    finally:
        postgres.drop_database("copy_of_test")
        postgres.drop_database("template_of_test")


def test_a_refused_statement_says_why(postgres: PrivatePostgres) -> None:
    with pytest.raises(LocalError, match="division by zero"):
        postgres.query("SELECT 1/0")


def test_the_cluster_for_tests_is_not_durable_and_others_are(postgres: PrivatePostgres, tmp_path: Path) -> None:
    assert postgres.query("SHOW fsync") == "off"
    durable = PrivatePostgres(tmp_path / "durable", postgres.port)
    with pytest.raises(PortTakenError, match=rf"port {postgres.port} .* taken by postgres \(pid \d+"):
        durable.start()
    assert durable.durable


def test_committed_rows_survive_a_kill_and_stop_leaves_no_process(own_postgres: PrivatePostgres) -> None:
    own_postgres.query("CREATE TABLE kept AS SELECT 7 AS id")
    own_postgres.kill()
    assert not own_postgres.is_running
    own_postgres.start()
    own_postgres.wait_ready()
    assert own_postgres.query("SELECT id FROM kept") == "7"
    own_postgres.restart()
    assert own_postgres.query("SELECT id FROM kept") == "7"
    own_postgres.stop()
    assert not own_postgres.is_running
    assert is_free(own_postgres.port)
