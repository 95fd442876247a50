"""Which process deletes, and whether the database's clock can be trusted.

A wrong clock must delete nothing. So three clocks must agree that a campaign is old: the database's (now, and at its
end), this process's, and that of the process that created it, which is in its id (`due.py`). And the database's clock
must have run evenly for a day: a step makes retention wait, so that a person can mend the clock.
"""

import time
from dataclasses import dataclass

import orjson
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import clock, db_now
from shared.ledger.models import Bookmark

NAME = "retention"
LEASE_SECONDS = 60.0

GAP_SECONDS = 900.0
"""A longer time without a look at the clock counts as a step: perhaps everything stood still, perhaps it was set."""

BACK_SECONDS = 5.0
"""How far the clock may be set back without doubt, as a time server does it."""

APART_SECONDS = 300.0
"""How far this process's clock and the database's may differ."""


@dataclass(frozen=True, slots=True)
class Held:
    """This process deletes, until it lets go or does not renew for LEASE_SECONDS."""

    #: By the database's clock, in seconds since 1970.
    now: float
    #: Since when that clock has run evenly.
    steady_since: float

    def doubt(self, steady_seconds: float) -> str:
        """Why the clock is not trusted; empty if it is."""
        apart = time.time() - self.now
        if abs(apart) > APART_SECONDS:
            return f"the clock of the database and that of this process differ by {abs(apart):.0f} s"
        waits = self.steady_since + steady_seconds - self.now
        if waits > 0:
            return f"the clock of the database is watched for {waits:.0f} s more"
        return ""


async def hold(connection: AsyncConnection, owner: str) -> Held | None:
    """Takes or renews the lease and looks at the clock, in a writing transaction. None: another process has it.

    The transaction has locked the lease until it ends, so what else is in it happens under the lease."""
    missing = rows.insert_missing(connection, Bookmark).values(name=NAME, value="{}", at=db_now())
    await connection.execute(missing)
    locked = await rows.lock(connection, Bookmark.value, col(Bookmark.name) == NAME, returning=(col(Bookmark.value),))
    assert locked is not None
    value = orjson.loads(locked.value)
    now = await clock(connection)
    until = value.get("until", 0.0)
    # A lease that ends later than any can was given before the clock was set back.
    if value.get("owner") not in (None, owner) and now < until <= now + LEASE_SECONDS:
        return None
    seen_at = value.get("seen_at")
    is_even = seen_at is not None and -BACK_SECONDS <= now - seen_at <= GAP_SECONDS
    steady_since = min(value["steady_since"], now) if is_even else now
    await _write(
        connection, {"owner": owner, "until": now + LEASE_SECONDS, "seen_at": now, "steady_since": steady_since}
    )
    return Held(now, steady_since)


async def let_go(connection: AsyncConnection, owner: str) -> None:
    """Ends the lease, if this process has it."""
    locked = await rows.lock(connection, Bookmark.value, col(Bookmark.name) == NAME, returning=(col(Bookmark.value),))
    value = {} if locked is None else orjson.loads(locked.value)
    if value.get("owner") == owner:
        await _write(connection, {**value, "owner": None, "until": 0.0})


async def _write(connection: AsyncConnection, value: dict[str, object]) -> None:
    await connection.execute(
        update(Bookmark).where(col(Bookmark.name) == NAME).values(value=orjson.dumps(value).decode(), at=db_now())
    )
