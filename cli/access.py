"""The command's direct access to database and broker, without the API. Their errors get exit codes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

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
from shared.signing import Use

TOPOLOGY_SECONDS = 15.0

_NOT_ALLOWED = (aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ProbableAuthenticationError)


@asynccontextmanager
async def ledger_of(config: CommonSettings) -> AsyncIterator[Ledger]:
    """The ledger, for one command. Raises UnavailableError if the database is away or does not exist."""
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
    """Whether there may be a database: False if SQLite's file is missing, since opening it would create it."""
    url = make_url(config.ledger_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


async def revision(config: CommonSettings) -> str | None:
    """The schema's revision; None if the database has none."""
    if not has_database(config):
        return None
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await migrate.current(connection)


async def knows_key(config: CommonSettings, secret: str) -> bool:
    """Whether this ledger has the key and it is valid."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await keys.find(connection, secret=secret) is not None


async def sign_in_link(config: CommonSettings, api_key: str, page_url: str) -> str:
    """A link that signs a person in to the page, once, within 15 minutes."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await make_link(connection, config.signing_keys(Use.SIGN_IN)[0], api_key, page_url)


async def declare(url: str) -> None:
    """Declares the topology. Raises ConfigurationError if the broker refuses, UnavailableError if it is away."""
    with broker_errors():
        await topology.declare(url, timeout_seconds=TOPOLOGY_SECONDS)


async def missing_topology(url: str) -> list[str]:
    """The queues and exchanges that the broker lacks. Raises like `declare`."""
    with broker_errors():
        return await topology.check(url, timeout_seconds=TOPOLOGY_SECONDS)


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raises ConfigurationError if the broker refuses, UnavailableError if it is away."""
    try:
        yield
    except aio_pika.exceptions.ChannelPreconditionFailed as error:
        raise ConfigurationError(
            f"the broker has a queue of that name with other arguments: {error}. Delete it, or "
            "use a separate virtual host."
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
