"""The API's clock that deletes what is past its retention: no other service may delete recipients."""

from services.api.context import Api
from shared import logs
from shared.ledger.database import clock
from shared.ledger.forgetting import due
from shared.ledger.forgetting.deletion import Deleted
from shared.ledger.forgetting.run import Forgetter, Rules

RETENTION_SECONDS = 60.0

log = logs.get()


class Retention:
    """Several API processes may do this at once: one of them deletes."""

    def __init__(self, api: Api, instance: str) -> None:
        self._api = api
        settings = api.settings
        rules = Rules.of(settings.retention_days, settings.retention_steady_seconds, settings.transaction_seconds)
        self._forgetter = Forgetter(api.ledger, instance, settings.hash_roots, rules, self._count)
        self._days = settings.retention_days
        #: Why new campaigns were not marked the last time.
        self._doubt = ""

    async def tick(self) -> None:
        """Deletes as long as there is something to delete."""
        overdue = await self._show()
        result = await self._forgetter.run()
        self._api.metrics.forgotten.inc(result.marked)
        self._tell(result.doubt if overdue else "")
        if result.marked or result.ended:
            await self._show()

    def _tell(self, doubt: str) -> None:
        """Logs why nothing is marked, and that it goes on."""
        if bool(doubt) != bool(self._doubt):
            log.info("retention.waits" if doubt else "retention.goes_on", reason=doubt)
        self._doubt = doubt

    async def _show(self) -> int:
        """Returns the number of campaigns past their retention."""
        async with self._api.ledger.read() as connection:
            now = await clock(connection)
            oldest = await due.oldest_end(connection)
            overdue = await due.number_due(connection, self._days)
        self._api.metrics.oldest_result.set(0.0 if oldest is None else max(now - oldest, 0.0))
        self._api.metrics.retention_overdue.set(overdue)
        return overdue

    def _count(self, deleted: Deleted) -> None:
        self._api.metrics.forgotten_rows.labels(deleted.what).inc(deleted.rows)
