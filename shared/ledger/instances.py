"""The running processes of all services, and when each was last heard from."""

import os
import socket

import orjson
from sqlalchemy import Float, bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import db_now
from shared.ledger.models import ServiceInstance

LATELY_SECONDS = 60.0
"""Twelve heartbeats."""


async def seen(
    connection: AsyncConnection,
    *,
    instance: str,
    service: str,
    host: str | None = None,
    pid: int | None = None,
    slot: str | None = None,
    slots: int = 0,
    draining: bool = False,
    uptime_seconds: float = 0.0,
    detail: dict[str, object] | None = None,
) -> None:
    """Notes that an instance is alive now, by the database's clock."""
    values = {
        "id": instance,
        "service": service,
        "host": host or socket.gethostname(),
        "pid": pid or os.getpid(),
        "slot": slot,
        "slots": slots,
        "draining": draining,
        "started_at": db_now() - uptime_seconds,
        "seen_at": db_now(),
        "detail": orjson.dumps(detail or {}).decode(),
    }
    await rows.upsert(connection, ServiceInstance, values, key=("id",))


LIVE_CAPACITY = select(func.coalesce(func.sum(col(ServiceInstance.slots)), 0)).where(
    col(ServiceInstance.service) == "sender",
    col(ServiceInstance.draining).is_(False),
    col(ServiceInstance.seen_at) > db_now() - bindparam("lost_seconds", type_=Float),
)
"""Batches that the senders heard from within `lost_seconds` can hold at once."""


async def live_capacity(connection: AsyncConnection, *, lost_seconds: float) -> int:
    """LIVE_CAPACITY alone."""
    return int((await connection.execute(LIVE_CAPACITY, {"lost_seconds": lost_seconds})).scalar_one())


async def relays(connection: AsyncConnection) -> dict[str, str]:
    """The group of each relay of the senders heard from lately, by the relay's name. Senders of 0.1.0 name no group."""
    found = await connection.execute(
        select(col(ServiceInstance.detail)).where(
            col(ServiceInstance.service) == "sender", col(ServiceInstance.seen_at) > db_now() - LATELY_SECONDS
        )
    )
    said = [relay for detail in found.scalars() for relay in orjson.loads(detail).get("relays", ())]
    return {relay["name"]: relay.get("group", "") for relay in said}


async def forget(connection: AsyncConnection, *, older_than_seconds: float) -> int:
    """Removes instances not heard from for this long; returns how many."""
    gone = await connection.execute(
        delete(ServiceInstance).where(col(ServiceInstance.seen_at) < db_now() - older_than_seconds)
    )
    return gone.rowcount
