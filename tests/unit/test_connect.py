"""What the database URL says about hosts and poolers."""

import asyncpg
import pytest
from sqlalchemy import make_url

from shared.errors import ConfigurationError
from shared.ledger.connect import NoHostError, connect_args, server_of, together
from shared.ledger.database import is_unavailable


def test_of_several_hosts_only_the_one_that_takes_writes_is_used() -> None:
    url, is_pooled = server_of(make_url("postgresql+asyncpg://me@/x?host=h1&host=[::1]:6432"))
    assert url.query == {"host": ("h1:5432", "[::1]:6432"), "target_session_attrs": "read-write"}
    assert not is_pooled


def test_a_url_that_says_which_host_to_use_is_obeyed() -> None:
    url, _ = server_of(make_url("postgresql+asyncpg://me@/x?host=h1&host=h2&target_session_attrs=any"))
    assert url.query["target_session_attrs"] == "any"


def test_the_option_for_a_pooler_is_ours() -> None:
    url, is_pooled = server_of(make_url("postgresql+asyncpg://me@h/x?pooler=transaction"))
    assert (url, is_pooled) == (make_url("postgresql+asyncpg://me@h/x"), True)
    with pytest.raises(ConfigurationError, match="say pooler=transaction"):
        server_of(make_url("postgresql+asyncpg://me@h/x?pooler=session"))


def test_behind_a_pooler_nothing_depends_on_a_session() -> None:
    arguments = connect_args("sender-1", None, is_pooled=True)
    assert arguments["statement_cache_size"] == arguments["prepared_statement_cache_size"] == 0
    assert arguments["server_settings"] == {"application_name": "sender-1"}, "pgbouncer 1.18 refuses all others"


def test_hosts_that_refuse_are_told_together_and_are_an_outage() -> None:
    error = together(
        [
            ("h1:5432", ConnectionRefusedError("refused")),
            ("h2:5432", NoHostError("takes no writes")),
            ("h3:5432", TimeoutError()),
        ]
    )
    assert isinstance(error, NoHostError)
    assert str(error) == "h1:5432: refused; h2:5432: takes no writes; h3:5432: no answer within 3 s"
    assert is_unavailable(error)


def test_a_mistake_in_the_url_is_told_as_it_is() -> None:
    mistake = asyncpg.InvalidCatalogNameError("there is no such database")
    error = together([("h1:5432", ConnectionRefusedError("refused")), ("h2:5432", mistake)])
    assert error is mistake
    assert is_unavailable(error)  # a database that is being restored does not exist for a while
