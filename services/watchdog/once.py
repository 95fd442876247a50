"""One full sweep by hand. It needs the settings and the database, but no running service."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from services.watchdog import rescue
from services.watchdog.findings import Finding
from services.watchdog.sweep import Sweep, full_pass
from shared import logs, settings
from shared.errors import UnavailableError, VashSenderError
from shared.health import database_check
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import WatchdogSettings


def main(*, as_json: bool) -> None:
    """Prints what was found and done. Exits with 0, also after repairs; 69 without a database; 78 for bad settings."""
    try:
        config = settings.load(WatchdogSettings)
        # The report replaces the log lines.
        logs.configure("watchdog", "once", log_format=config.log_format, level="error")
        findings = asyncio.run(_sweep(config))
    except VashSenderError as error:
        sys.stderr.write(f"watchdog: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write("".join(f"{line}\n" for line in (_json(findings) if as_json else _text(findings))))


async def _sweep(config: WatchdogSettings) -> Sequence[Finding]:
    ledger = Ledger(config.ledger_url, pool_size=1, application="vashsender-watchdog-once")
    try:
        problem = await database_check(ledger)()
        if problem:
            raise UnavailableError(problem)
        return [
            *await rescue.leases(ledger),
            *await rescue.tickets(ledger, config, ()),
            *await full_pass(Sweep(ledger, config)),
        ]
    except Exception as error:
        if isinstance(error, VashSenderError) or not is_unavailable(error):
            raise
        raise UnavailableError(f"the database cannot be reached: {in_a_line(error)}") from error
    finally:
        await ledger.close()


def _json(findings: Sequence[Finding]) -> list[str]:
    """One object per finding, then one with the number of each kind."""
    kinds = [finding.kind.value for finding in findings]
    lines = [orjson.dumps(asdict(finding), default=str).decode() for finding in findings]
    return [*lines, orjson.dumps({"summary": {kind: kinds.count(kind) for kind in sorted(set(kinds))}}).decode()]


def _text(findings: Sequence[Finding]) -> list[str]:
    lines = [
        f"{finding.kind.value:7} {finding.reason:26} campaign {finding.campaign_id}  {finding.text}"
        for finding in findings
    ]
    return [*lines, f"{len(findings)} found" if findings else "The ledger is sound: nothing to repair."]
