"""Group commit: the reports that have accumulated go into the ledger in one transaction."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.feedback.grouped import Grouped
from services.feedback.metrics import FeedbackMetrics
from shared.feedback.meaning import Found
from shared.ledger import probes, reports
from shared.ledger.database import Ledger
from shared.ledger.probes import Arrival
from shared.ledger.report_people import forgotten_all, identify_all
from shared.ledger.reports import Incoming, Outcome


@dataclass(frozen=True, slots=True)
class _Mail:
    found: Found
    digest: str
    #: The project of the address that it came to.
    project_id: UUID | None


class Recorder:
    """Records reports; several may wait at the same time."""

    def __init__(self, ledger: Ledger, secrets: Sequence[bytes], metrics: FeedbackMetrics) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._metrics = metrics
        self._grouped = Grouped(self._write)

    async def record(self, found: Found, digest: str, project_id: UUID | None) -> Outcome:
        """Returns once the report is in the ledger, or deliberately is not. `project_id`: that of the address it came
        to. Raises what the database raises."""
        since = time.monotonic()
        outcome = await self._grouped.do(_Mail(found, digest, project_id))
        self._metrics.reports.labels(outcome.kind.value, outcome.result).inc()
        self._metrics.record_seconds.observe(time.monotonic() - since)
        return outcome

    async def record_probe(self, token: str, arrival: Arrival) -> bool:
        """Returns once an email of `doctor probe` is in the ledger; False if it is there already. Raises what the
        database raises."""
        async with self._ledger.write() as connection:
            return await probes.note_arrival(connection, token, arrival)

    async def run(self) -> None:
        """Records until it is cancelled."""
        await self._grouped.run()

    async def trim(self) -> None:
        """A tick: deletes old unverified reports."""
        async with self._ledger.write() as connection:
            await reports.trim_unverified(connection)

    async def _write(self, mails: Sequence[_Mail]) -> Sequence[Outcome]:
        async with self._ledger.write() as connection:
            people = await identify_all(connection, self._secrets, [mail.found.tokens for mail in mails])
            unknown = [() if person else mail.found.tokens for mail, person in zip(mails, people, strict=True)]
            forgotten = await forgotten_all(connection, self._secrets, unknown)
            incoming = [
                Incoming(mail.found, mail.digest, "mail", person, mail.project_id, late)
                for mail, person, late in zip(mails, people, forgotten, strict=True)
            ]
            return await reports.record(connection, incoming)
