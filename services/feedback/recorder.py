"""Group commit: whatever reports have accumulated go into the ledger in one transaction, and the next starts at
once."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from services.feedback.metrics import FeedbackMetrics
from shared.feedback.meaning import Found
from shared.ledger import reports
from shared.ledger.database import Ledger, is_unavailable
from shared.ledger.report_people import identify_all
from shared.ledger.reports import Incoming, Outcome

MOST_AT_ONCE = 100


@dataclass(eq=False)
class _Waiting:
    found: Found
    digest: str
    #: The project of the address that it came to.
    project_id: UUID | None
    recorded: asyncio.Future[Outcome]
    since: float = field(default_factory=time.monotonic)


class Recorder:
    """Records reports; several may wait at the same time."""

    def __init__(self, ledger: Ledger, secrets: Sequence[bytes], metrics: FeedbackMetrics) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._filled = asyncio.Event()

    async def record(self, found: Found, digest: str, project_id: UUID | None) -> Outcome:
        """Returns once the report is in the ledger, or deliberately is not. `project_id`: that of the address it came
        to. Raises what the database raises."""
        waiting = _Waiting(found, digest, project_id, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._filled.set()
        outcome = await waiting.recorded
        self._metrics.reports.labels(outcome.kind.value, outcome.result).inc()
        self._metrics.record_seconds.observe(time.monotonic() - waiting.since)
        return outcome

    async def run(self) -> None:
        """Records until it is cancelled."""
        while True:
            await self._filled.wait()
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            if not self._waiting:
                self._filled.clear()
            if batch:
                await self._record(batch)

    async def trim(self) -> None:
        """A tick: deletes old unverified reports."""
        async with self._ledger.write() as connection:
            await reports.trim_unverified(connection)

    async def _record(self, batch: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._write(batch)
        except Exception as error:  # noqa: BLE001 - the servers that brought the mails are told, and try again
            if len(batch) > 1 and not is_unavailable(error):
                for waiting in batch:  # one of them is at fault, and must not keep the others out
                    await self._record([waiting])
                return
            for waiting in batch:
                if not waiting.recorded.done():
                    waiting.recorded.set_exception(error)
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if not waiting.recorded.done():
                waiting.recorded.set_result(outcome)

    async def _write(self, batch: Sequence[_Waiting]) -> Sequence[Outcome]:
        async with self._ledger.write() as connection:
            people = await identify_all(connection, self._secrets, [waiting.found.tokens for waiting in batch])
            incoming = [
                Incoming(waiting.found, waiting.digest, "mail", person, waiting.project_id)
                for waiting, person in zip(batch, people, strict=True)
            ]
            return await reports.record(connection, incoming)
