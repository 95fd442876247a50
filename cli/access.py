"""The database and the broker, reached by the command itself, without the API: errors become exit code 69."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

import aio_pika
import aiormq.exceptions
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from shared import topology
from shared.errors import ConfigurationError, UnavailableError, VashSenderError
from shared.ledger import keys, migrate
from shared.ledger.database import Ledger
from shared.settings import CommonSettings
from shared.sign_in import make_link

TOPOLOGY_SECONDS = 15.0

_NOT_ALLOWED = (aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ProbableAuthenticationError)


@asynccontextmanager
async def ledger_of(config: CommonSettings) -> AsyncIterator[Ledger]:
    """The ledger, for one command. Raises UnavailableError when the database is away, or was never made."""
    if not has_database(config):
        raise UnavailableError("there is no database yet: run `vashsender start` or `vashsender db upgrade`")
    ledger = Ledger(config.ledger_url, pool_size=1, application="vashsender")
    try:
        yield ledger
    except (SQLAlchemyError, OSError) as error:
        raise UnavailableError(f"the database cannot be used: {_first_line(error)}") from error
    finally:
        await ledger.close()


def has_database(config: CommonSettings) -> bool:
    """False where SQLite's file does not exist: to open it would make it. Of a server only asking tells."""
    url = make_url(config.ledger_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


async def revision(config: CommonSettings) -> str | None:
    """The schema's revision; None for a database without one."""
    if not has_database(config):
        return None
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await migrate.current(connection)


async def create_key(config: CommonSettings, name: str) -> str:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        return await keys.create_key(connection, name)


async def knows_key(config: CommonSettings, secret: str) -> bool:
    """Whether this ledger has that key, and it is not revoked."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await keys.project_of(connection, secret) is not None


async def sign_in_link(config: CommonSettings, api_key: str, page_url: str) -> str:
    """An address that signs a person in to the page, once, within a quarter of an hour."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await make_link(connection, config.secret_keys[0], api_key, page_url)


async def list_keys(config: CommonSettings) -> Sequence[keys.Key]:
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await keys.list_keys(connection)


async def revoke_key(config: CommonSettings, key_id: UUID) -> bool:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        return await keys.revoke_key(connection, key_id)


async def declare(url: str) -> None:
    """Declares the topology. Raises ConfigurationError where the account may not, UnavailableError where nobody
    answers."""
    with broker_errors():
        await topology.declare(url, timeout_seconds=TOPOLOGY_SECONDS)


async def missing_topology(url: str) -> list[str]:
    """Queues that the broker does not have. Raises as `declare`."""
    with broker_errors():
        return await topology.check(url, timeout_seconds=TOPOLOGY_SECONDS)


@contextmanager
def broker_errors() -> Iterator[None]:
    """The broker's refusals as ConfigurationError, its absence as UnavailableError."""
    try:
        yield
    except aio_pika.exceptions.ChannelPreconditionFailed as error:
        raise ConfigurationError(
            f"the broker has a queue of that name in another form: {error}. Delete it, or "
            "use a virtual host of its own."
        ) from None
    except _NOT_ALLOWED as error:
        raise ConfigurationError(
            f"the broker refuses: {error}. This needs an account that may configure: set VASHSENDER_AMQP_ADMIN_URL."
        ) from None
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        if isinstance(error, VashSenderError):
            raise
        raise UnavailableError(f"the broker cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
