"""How connections to PostgreSQL are made: to one of several hosts, or through pgbouncer."""

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import URL

from shared import logs
from shared.errors import ConfigurationError

CONNECT_SECONDS = 10
CONNECT_SECONDS_PER_HOST = 3
"""With several hosts: one that does not answer must not use up the time for the others."""
SILENCE_SECONDS = 10
"""A connection ends if its server acknowledges nothing for this long: a machine that lost its power says no goodbye."""

POSTGRESQL_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
"""Every statement finds a few rows by an index. Without these settings the planner reads a small table as a whole, and
keeps that plan while a million rows are imported, until ANALYZE has run: minutes at a tenth of the rate."""

LOST_CLIENT = {"idle_in_transaction_session_timeout": f"{SILENCE_SECONDS}s"}
"""A client that is cut off in the middle of a transaction would keep its locks for hours, and no other process could
take back its batches. It is less than the usual lease; a transaction waits for nothing but its next statement."""

DEFAULT_PORT = 5432
_HAS_PORT = re.compile(r":\d+$")

POOLER = "pooler"
"""The option of the database URL that says what is between us and PostgreSQL."""
TRANSACTION = "transaction"

_log = logs.get()


class NoHostError(OSError):
    """None of the hosts in the database URL takes writes now. The message says why, host by host."""


def server_of(url: URL) -> tuple[URL, bool]:
    """The URL as asyncpg understands it, and whether a pooler lends us connections per transaction.

    Several hosts have the usual port unless they name one, and only the one that takes writes is used. Raises
    ConfigurationError for another value of our own option `pooler`."""
    mode = url.query.get(POOLER)
    if mode not in (None, TRANSACTION):
        raise ConfigurationError(f"VASHSENDER_DATABASE_URL: {POOLER}={mode} is unknown; say {POOLER}={TRANSACTION}.")
    url = url.difference_update_query([POOLER])
    hosts = url.query.get("host")
    if isinstance(hosts, tuple):
        ported = [host if _HAS_PORT.search(host) else f"{host}:{DEFAULT_PORT}" for host in hosts]
        query: dict[str, str | tuple[str, ...]] = {"target_session_attrs": "read-write", **url.query}
        url = url.set(query={**query, "host": tuple(ported)})
    return url, mode is not None


def connect_args(application: str, tls: object, *, is_pooled: bool) -> Mapping[str, Any]:
    """What SQLAlchemy's asyncpg dialect passes on. `tls` is what `database_tls` returned.

    Behind a pooler no statement is prepared under a name, because the next transaction runs on another connection, and
    the planner's settings are not sent, because pgbouncer refuses them: see docs/high-availability.md."""
    settings = {"application_name": application[:60]}
    arguments: dict[str, Any] = {"async_creator_fn": Connector(is_pooled=is_pooled).connect}
    if tls is not None:
        arguments["ssl"] = tls
    if is_pooled:
        return {**arguments, "server_settings": settings, "statement_cache_size": 0, "prepared_statement_cache_size": 0}
    return {**arguments, "server_settings": {**settings, **POSTGRESQL_PLANS, **LOST_CLIENT}}


class Connector:
    """Opens the connections of one pool. It begins with the host that took the last one."""

    def __init__(self, *, is_pooled: bool = False) -> None:
        self._first = 0
        #: A pooler was looked for, or is known.
        self._is_checked = is_pooled

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """As asyncpg.connect, which is never told about more than one host: it would give all of them one time limit,
        and stop at the first that refuses. Raises NoHostError, or an error that waiting does not mend."""
        hosts, ports = options.pop("host", None), options.pop("port", None)
        options.pop("timeout", None)
        if not isinstance(hosts, list):
            return await self._open(hosts, ports, CONNECT_SECONDS, options)
        failures: list[tuple[str, Exception]] = []
        for number in (*range(self._first, len(hosts)), *range(self._first)):
            try:
                connection = await self._open(hosts[number], ports[number], CONNECT_SECONDS_PER_HOST, options)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                failures.append((f"{hosts[number]}:{ports[number]}", error))
            else:
                self._first = number
                return connection
        raise together(failures)

    async def _open(self, host: str | None, port: int | None, seconds: float, options: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(seconds):
                connection = await asyncpg.connect(host=host, port=port, timeout=seconds, **options)
                _end_when_silent(connection)
                if not self._is_checked:
                    await _look_for_pooler(connection)
        except asyncpg.TargetServerAttributeNotMatched:
            raise NoHostError("takes no writes") from None
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" in str(error):
                raise ConfigurationError(_ADVICE) from None
            raise
        self._is_checked = True
        return connection


_ADVICE = (
    f"VASHSENDER_DATABASE_URL leads to a pooler such as pgbouncer. Add the option {POOLER}={TRANSACTION} to it; "
    "docs/high-availability.md has the settings of the database role."
)


async def _look_for_pooler(connection: asyncpg.Connection) -> None:
    """A pooler shows other process ids than the server's. One in session mode does no harm, so this only warns."""
    if connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"):
        _log.warning("database.pooler", advice=_ADVICE)


def _end_when_silent(connection: asyncpg.Connection) -> None:
    """Has the kernel probe an idle connection, and end one whose data or probes are not acknowledged."""
    transport = connection._transport  # noqa: SLF001 - asyncpg has no public way to its socket
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENCE_SECONDS // 2),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", SILENCE_SECONDS // 2),
        ("TCP_USER_TIMEOUT", SILENCE_SECONDS * 1000),
    ):
        if hasattr(socket, name):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def together(failures: Sequence[tuple[str, Exception]]) -> Exception:
    """One error for all hosts. A wrong database name, for example, is told as it is."""
    for _, error in failures:
        if isinstance(error, asyncpg.InvalidCatalogNameError | ConfigurationError):
            return error
    return NoHostError("; ".join(f"{host}: {_words(error)}" for host, error in failures))


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS_PER_HOST} s"
    return (str(error) or type(error).__name__).splitlines()[0]
