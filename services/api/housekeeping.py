"""The API's own clock: says that this process is alive, ends imports that will not finish, forgets what is over."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.context import Api
from services.api.usecases import erasing, idempotency_keys, import_rows
from services.api.usecases.erasure_steps import Progress
from shared import logs
from shared.ledger import complaints, hashed, instances, sessions
from shared.ledger.database import in_a_line, is_unavailable
from shared.ledger.hashed import SealedSecretError
from shared.providers import Providers

TICK_SECONDS = 5.0
ERASE_SECONDS = 1.0
STEPS_IN_A_ROW = 20
"""Of one erasure, before others get their turn."""
FORGET_SECONDS = 300.0
"""How often expired idempotency keys and old sessions are deleted. It reads whole tables."""
JUDGE_SECONDS = 60.0
UNDO_IDLE_SECONDS = 3.0
"""A process that undoes an import touches it at least this often; after that, any process may go on with it."""
FAREWELL_SECONDS = 10.0
"""How long a process that stops tries to note it. Supervisors allow 30 s or more for the whole stop."""

STOPPED = "The server was stopped while it arrived; repeat it."
DIED = "The server died while it arrived; repeat it."

log = logs.get()


class Housekeeping:
    """Several API processes may do this at once."""

    def __init__(self, api: Api, instance: str) -> None:
        self._api = api
        self._instance = instance
        self._started = time.monotonic()
        self._forget_at = self._started
        self._providers = Providers()

    async def tick(self) -> None:
        await self._sign_of_life(draining=False)
        await self._end_imports()
        if time.monotonic() >= self._forget_at:
            async with self._api.ledger.write() as connection:
                await idempotency_keys.forget_expired(connection, self._api.settings.idempotency_seconds)
                await sessions.forget(connection)
            await self._keep_hashes_open()
            self._forget_at = time.monotonic() + FORGET_SECONDS

    async def erase(self) -> None:
        """A tick: works on erasures until there is nothing to do. In between, others write."""
        while True:
            unfinished, due = await self._api.ledger.read_at_once(_erasures)
            self._api.metrics.erasures.set(unfinished)
            if not any([await self._some_steps(erasure_id) for erasure_id in due]):
                return

    async def _some_steps(self, erasure_id: int) -> bool:
        """Works on one erasure. False: it waits for senders, and had nothing else to do."""
        for done in range(STEPS_IN_A_ROW):
            began = time.monotonic()
            progress = await erasing.step(self._api.ledger, erasure_id)
            if progress is Progress.DONE:
                self._api.metrics.erased.inc()
                log.info("person.erased", erasure_id=erasure_id)
                return True
            if progress is not Progress.MORE:
                return done > 0
            await asyncio.sleep(time.monotonic() - began)
        return True

    async def _keep_hashes_open(self) -> None:
        try:
            async with self._api.ledger.write() as connection:
                await hashed.maintain(connection, self._api.settings.hash_roots)
        except SealedSecretError as error:
            log.error("hashes.sealed", error=str(error))

    async def judge_complaints(self) -> None:
        """A tick: see shared.ledger.complaints."""
        await complaints.judge(self._api.ledger, self._providers)
        async with self._api.ledger.read() as connection:
            alerts, holds = await complaints.over(connection)
        self._api.metrics.complaint_rates.labels("alert").set(alerts)
        self._api.metrics.complaint_rates.labels("hold").set(holds)

    async def farewell(self) -> None:
        """Notes that this process stops, and gives up the imports that are arriving; another process removes their
        rows. Without a database nothing can be noted."""
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._sign_of_life(draining=True)
                async with self._api.ledger.write() as connection:
                    # A copy: uploads end meanwhile.
                    for import_id in sorted(self._api.imports.arriving):
                        await import_rows.give_up(connection, import_id, STOPPED)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database.unreachable", error=in_a_line(error))

    async def _sign_of_life(self, *, draining: bool) -> None:
        """Of this process, and of the imports that it receives."""
        arriving = list(self._api.imports.arriving)

        async def work(connection: AsyncConnection) -> None:
            await instances.seen(
                connection,
                instance=self._instance,
                service="api",
                draining=draining,
                uptime_seconds=time.monotonic() - self._started,
            )
            if arriving:
                await import_rows.renew(connection, arriving)

        await self._api.ledger.write_at_once(work)

    async def _end_imports(self) -> None:
        ledger, timeout, imports = self._api.ledger, self._api.settings.import_timeout_seconds, self._api.imports
        abandoned, stale, idle = await ledger.read_at_once(partial(_ended_imports, timeout_seconds=timeout))
        for import_id in abandoned:
            await self._give_up(import_id, DIED, only_abandoned=True)
        reasons = dict.fromkeys(stale, f"Nothing arrived for {timeout:g} s.") | imports.undo_later
        for import_id, reason in reasons.items():
            await self._give_up(import_id, reason)
            imports.undo_later.pop(import_id, None)
        for import_id in {*abandoned, *reasons, *idle}:
            outcome = await import_rows.undo(ledger, import_id)
            if outcome:
                timed_out = import_id in stale and import_id not in abandoned
                self._api.metrics.undone.labels("timed_out" if timed_out else outcome).inc()

    async def _give_up(self, import_id: int, reason: str, *, only_abandoned: bool = False) -> None:
        async with self._api.ledger.write() as connection:
            given_up = await import_rows.give_up(connection, import_id, reason, only_abandoned=only_abandoned)
        if given_up:
            log.warning("import.given_up", import_id=import_id, reason=reason)


async def _erasures(connection: AsyncConnection) -> tuple[int, Sequence[int]]:
    """How many are unfinished, and those that are due."""
    unfinished = await erasing.count_unfinished(connection)
    return unfinished, await erasing.due(connection) if unfinished else ()


async def _ended_imports(
    connection: AsyncConnection, timeout_seconds: float
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Those that a process has abandoned, those in which nothing arrives, and those given up that no process undoes."""
    return (
        await import_rows.abandoned(connection),
        await import_rows.stale(connection, timeout_seconds),
        await import_rows.given_up(connection, UNDO_IDLE_SECONDS),
    )
