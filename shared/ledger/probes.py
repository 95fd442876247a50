"""Emails of `vashsender doctor probe`: announced before they are sent, filled in by the feedback service when they
arrive. Their address has a random token, and each is taken once, so strangers can leave nothing here."""

import re
import secrets
from base64 import b32encode
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.email_tokens import TOKEN
from shared.ledger.database import db_now
from shared.ledger.report_tables import Probe
from shared.plain_text import printable

LIFE_SECONDS = 86_400.0
"""For how long an email is awaited, and kept."""
MOST_BYTES = 100_000
"""Of one email."""

_ADDRESS = re.compile(rf"probe\+({TOKEN.pattern})", TOKEN.flags)
_OCTETS = 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """An email as it arrived."""

    #: `smtp` or `lmtp`; see shared.ledger.report_tables.
    protocol: str
    #: The other end of the connection.
    peer: str
    helo: str
    #: MAIL FROM; empty for `<>`.
    sender: str
    message: bytes


def local_part(token: str) -> str:
    """Of the address to which a probe goes."""
    return f"probe+{token}"


def token_in(address: str) -> str | None:
    """The token of a probe's address; None if it is no such address."""
    found = _ADDRESS.fullmatch(address.rpartition("@")[0])
    return found[1].lower() if found else None


async def announce(connection: AsyncConnection) -> str:
    """The token of a new probe. Deletes old ones."""
    token = b32encode(secrets.token_bytes(_OCTETS)).decode().lower()
    await connection.execute(delete(Probe).where(col(Probe.created_at) < db_now() - LIFE_SECONDS))
    await connection.execute(insert(Probe).values(token=token, created_at=db_now()))
    return token


async def is_awaited(connection: AsyncConnection, token: str) -> bool:
    found = await connection.scalar(select(col(Probe.token)).where(*_awaited(token)))
    return found is not None


async def note_arrival(connection: AsyncConnection, token: str, arrival: Arrival) -> bool:
    """False if it is not awaited, such as the same email again."""
    values = {
        "protocol": arrival.protocol,
        "peer": printable(arrival.peer)[:64],
        "helo": printable(arrival.helo)[:255],
        "sender": printable(arrival.sender)[:320],
        "message": arrival.message[:MOST_BYTES],
    }
    changed = update(Probe).where(*_awaited(token)).values(arrived_at=db_now(), **values)
    return (await connection.execute(changed)).rowcount > 0


async def arrival(connection: AsyncConnection, token: str) -> Arrival | None:
    """None until it has arrived."""
    columns = (Probe.protocol, Probe.peer, Probe.helo, Probe.sender, Probe.message)
    wanted = select(*(col(column) for column in columns)).where(
        col(Probe.token) == token, col(Probe.arrived_at).is_not(None)
    )
    row = (await connection.execute(wanted)).first()
    return None if row is None else Arrival(**row._mapping)


async def forget(connection: AsyncConnection, token: str) -> None:
    await connection.execute(delete(Probe).where(col(Probe.token) == token))


def _awaited(token: str) -> list[ColumnElement[bool]]:
    fresh = col(Probe.created_at) >= db_now() - LIFE_SECONDS
    return [col(Probe.token) == token, col(Probe.arrived_at).is_(None), fresh]
