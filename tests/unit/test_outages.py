"""Which errors of PostgreSQL are outages, which end by themselves, and which are mistakes."""

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from shared.ledger.connect import NoHostError
from shared.ledger.database import is_unavailable

OUTAGES = (
    "08000",  # connection_exception
    "08006",  # connection_failure
    "08P01",  # protocol_violation: pgbouncer refuses start-up parameters
    "25006",  # read_only_sql_transaction: a standby, or a demoted primary
    "28000",  # invalid_authorization_specification
    "28P01",  # invalid_password
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
    "53100",  # disk_full
    "53200",  # out_of_memory
    "53300",  # too_many_connections
    "55P03",  # lock_not_available
    "57014",  # query_canceled: statement_timeout
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "58000",  # system_error
    "57P04",  # database_dropped
    "57P05",  # idle_session_timeout
    "58030",  # io_error
    "3D000",  # invalid_catalog_name: a database that is being restored
    "XX000",  # internal_error: "tuple concurrently updated"
    "XX001",  # data_corrupted: a person repairs it, and no process may lose its results meanwhile
)
MISTAKES = (
    "22001",  # string_data_right_truncation
    "23505",  # unique_violation
    "25P02",  # in_failed_sql_transaction
    "42501",  # insufficient_privilege
    "42P01",  # undefined_table
)


@pytest.mark.parametrize("state", OUTAGES)
def test_an_outage_is_waited_for(state: str) -> None:
    assert is_unavailable(wrapped(state))
    assert is_unavailable(error_of(state)), "while a connection is opened, the driver's own error arrives"


@pytest.mark.parametrize("state", MISTAKES)
def test_a_mistake_is_not_waited_for(state: str) -> None:
    assert not is_unavailable(wrapped(state))
    assert not is_unavailable(error_of(state))


def test_a_cluster_without_a_primary_is_an_outage() -> None:
    assert is_unavailable(NoHostError("h1:5432: takes no writes"))


def test_an_error_of_the_code_is_no_outage() -> None:
    assert not is_unavailable(KeyError("sqlstate"))


def error_of(state: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": state, "M": "said the server"})


def wrapped(state: str) -> DBAPIError:
    """As SQLAlchemy raises it, if the connection is still open."""
    return DBAPIError("SELECT 1", {}, error_of(state))
