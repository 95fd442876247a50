"""The API's own clock: imports nobody finishes, keys nobody repeats, and a sign of life."""

import time

from services.api import idempotency, import_rows
from services.api.context import Api
from shared import logs
from shared.ledger import instances
from shared.ledger.database import is_unavailable

TURN_SECONDS = 5.0
FORGET_SECONDS = 300.0
"""How often expired Idempotency-Keys are looked for: the whole table is read."""
UNDO_IDLE_SECONDS = 3.0
"""Whoever undoes an import touches it at least so often; after that it is anybody's."""

STOPPED = "The server was stopped while it arrived; repeat it."
DIED = "The server died while it arrived; repeat it."

log = logs.get()


class Housekeeping:
    def __init__(self, api: Api, instance: str) -> None:
        self._api = api
        self._instance = instance
        self._started = time.monotonic()
        self._forget_at = self._started

    async def turn(self) -> None:
        """Safe beside other API processes that do the same."""
        await self._sign_of_life(draining=False)
        await self._end_imports()
        if time.monotonic() >= self._forget_at:
            async with self._api.ledger.write() as connection:
                await idempotency.forget_expired(connection, self._api.settings.idempotency_seconds)
            self._forget_at = time.monotonic() + FORGET_SECONDS

    async def farewell(self) -> None:
        """Says that this process stops, and gives up the imports that still arrive: whoever keeps house next takes them
        out. Without a database nobody can be told."""
        try:
            await self._sign_of_life(draining=True)
            async with self._api.ledger.write() as connection:
                for import_id in self._api.importing:
                    await import_rows.give_up(connection, import_id, STOPPED)
        except Exception as error:
            if not is_unavailable(error):
                raise

    async def _sign_of_life(self, *, draining: bool) -> None:
        """Of this process, and of the imports it takes in."""
        async with self._api.ledger.write() as connection:
            await instances.seen(
                connection,
                instance=self._instance,
                service="api",
                draining=draining,
                uptime_seconds=time.monotonic() - self._started,
            )
            if self._api.importing:
                await import_rows.renew(connection, self._api.importing)

    async def _end_imports(self) -> None:
        ledger, timeout = self._api.ledger, self._api.settings.import_timeout_seconds
        async with ledger.read() as connection:
            abandoned = await import_rows.abandoned(connection)
            stale = await import_rows.stale(connection, timeout)
            idle = await import_rows.given_up(connection, UNDO_IDLE_SECONDS)
        for import_id in abandoned:
            async with ledger.write() as connection:
                if await import_rows.take_over(connection, import_id, DIED):
                    log.warning("import.given_up", import_id=import_id, reason=DIED)
        reasons = dict.fromkeys(stale, f"Nothing arrived for {timeout:g} s.") | self._api.undo_later
        for import_id, reason in reasons.items():
            async with ledger.write() as connection:
                ended = await import_rows.give_up(connection, import_id, reason)
            self._api.undo_later.pop(import_id, None)
            if ended:
                log.warning("import.given_up", import_id=import_id, reason=reason)
        for import_id in {*abandoned, *reasons, *idle}:
            outcome = await import_rows.undo(ledger, import_id)
            if outcome:
                timed_out = import_id in stale and import_id not in abandoned
                self._api.metrics.undone.labels("timed_out" if timed_out else outcome).inc()
