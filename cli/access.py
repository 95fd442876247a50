"""The database and the broker, reached by the command itself, without the API: errors become exit code 69."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import aio_pika
import aiormq.exceptions
from sqlalchemy.exc import SQLAlchemyError

from shared import topology
from shared.errors import ConfigurationError, UnavailableError
from shared.ledger import keys, migrate
from shared.ledger.database import Ledger
from shared.settings import CommonSettings

TOPOLOGY_SECONDS = 15.0

_NOT_ALLOWED = (aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ProbableAuthenticationError)


@asynccontextmanager
async def ledger_of(config: CommonSettings) -> AsyncIterator[Ledger]:
    """The ledger, for one command. Raises UnavailableError when the database is away."""
    ledger = Ledger(config.ledger_url, pool_size=1, application="vashsender")
    try:
        yield ledger
    except (SQLAlchemyError, OSError) as error:
        raise UnavailableError(f"the database cannot be used: {_first_line(error)}") from error
    finally:
        await ledger.close()


async def revision(config: CommonSettings) -> str | None:
    """The schema's revision; None for a database without one."""
    if config.ledger_url.startswith("sqlite") and not (config.var_dir / "vashsender.db").exists():
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


async def list_keys(config: CommonSettings) -> Sequence[keys.Key]:
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await keys.list_keys(connection)


async def revoke_key(config: CommonSettings, key_id: UUID) -> bool:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        return await keys.revoke_key(connection, key_id)


async def declare(url: str) -> None:
    """Declares the topology. Raises ConfigurationError where the account may not, UnavailableError where nobody
    answers."""
    try:
        await topology.declare(url, timeout_seconds=TOPOLOGY_SECONDS)
    except aio_pika.exceptions.ChannelPreconditionFailed as error:
        raise ConfigurationError(
            f"the broker has a queue of that name in another form: {error}. Delete it, or "
            "use a virtual host of its own."
        ) from None
    except _NOT_ALLOWED as error:
        raise ConfigurationError(
            f"the broker refuses: {error}. Declaring needs an account that may configure: set "
            "VASHSENDER_AMQP_ADMIN_URL."
        ) from None
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        raise UnavailableError(f"the broker cannot be reached: {_first_line(error)}") from error


async def missing_topology(url: str) -> list[str]:
    """Queues that the broker does not have. Raises UnavailableError."""
    try:
        return await topology.check(url, timeout_seconds=TOPOLOGY_SECONDS)
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        raise UnavailableError(f"the broker cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
