"""Retention of results: shown, set and carried out, directly in the ledger."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.access import ledger_of
from cli.settings import LocalSettings
from cli.tenants import actor, project_of
from shared.errors import UnavailableError
from shared.ledger import audit, projects
from shared.ledger.forgetting import due
from shared.ledger.forgetting.deletion import Deleted
from shared.ledger.forgetting.due import Preview
from shared.ledger.forgetting.run import Forgetter, Rules

LOOK_SECONDS = 2.0


@dataclass(slots=True)
class Progress:
    """What a run has deleted so far."""

    campaigns: int = 0
    recipients: int = 0
    reports: int = 0
    #: Campaigns that wait until older transactions have ended.
    waiting: int = 0
    #: Another process deletes now.
    is_elsewhere: bool = False

    def add(self, deleted: Deleted) -> None:
        if deleted.what == "recipient":
            self.recipients += deleted.rows
        else:
            self.reports += deleted.rows


async def preview(config: LocalSettings) -> tuple[float, Sequence[Preview]]:
    """Now by the database's clock, and what is kept and would go of each project."""
    async with ledger_of(config) as ledger:
        now = await ledger.now()
        async with ledger.read() as connection:
            return now, await due.preview(connection, config.retention_days)


async def set_days(config: LocalSettings, name: str, days: int | None) -> None:
    """0: for ever. None: the setting decides."""
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await project_of(connection, name)
        await projects.change(connection, project, {"retention_days": days})
        target = f"name={name} retention_days={days}"
        await audit.record(connection, actor(), "retention set", target=target, project_id=project.id)


async def run(config: LocalSettings, told: Callable[[Progress], None]) -> Progress:
    """Deletes what is past its retention, or waits while another process does; `told` is called as it goes on. Raises
    UnavailableError if a clock is not trusted."""
    progress = Progress()

    def add(deleted: Deleted) -> None:
        progress.add(deleted)
        told(progress)

    # A person has looked at the preview, so the clock need not be watched for a day.
    rules = Rules.of(config.retention_days, 0.0, config.transaction_seconds)
    async with ledger_of(config) as ledger:
        async with ledger.write() as connection:
            await audit.record(connection, actor(), "retention run")
        forgetter = Forgetter(ledger, config.instance_name("command"), config.hash_roots, rules, add)
        while True:
            result = await forgetter.run()
            if result.doubt:
                raise UnavailableError(f"{result.doubt}: mend the clocks, then repeat this")
            progress.campaigns += result.ended
            progress.waiting, progress.is_elsewhere = result.waiting, not result.is_ours
            told(progress)
            if result.is_ours and not result.waiting:
                return progress
            await asyncio.sleep(LOOK_SECONDS)
