"""One full sweep by hand: needs the settings and the database, and nothing else alive."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from services.watchdog import rescue, sweep
from services.watchdog.deeds import Deed
from shared import logs, settings
from shared.errors import UnavailableError, VashSenderError
from shared.health import database_check
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.settings import WatchdogSettings


def main(*, as_json: bool) -> None:
    """Tells on stdout what was found and done. Exits 0, also where there was much to mend; 69 without the database; 78
    with wrong settings."""
    try:
        config = settings.load(WatchdogSettings)
        # The report takes the place of the log lines.
        logs.configure("watchdog", "once", log_format=config.log_format, level="error")
        deeds = asyncio.run(_sweep(config))
    except VashSenderError as error:
        sys.stderr.write(f"watchdog: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write("".join(f"{line}\n" for line in (_json(deeds) if as_json else _text(deeds))))


async def _sweep(config: WatchdogSettings) -> Sequence[Deed]:
    ledger = Ledger(config.ledger_url, pool_size=1, application="vashsender-watchdog-once")
    try:
        problem = await database_check(ledger)()
        if problem:
            raise UnavailableError(problem)
        deeds = [
            *await rescue.leases(ledger),
            *await rescue.tickets(ledger, config, ()),
            *await sweep.rows(ledger),
            *await sweep.overlooked(ledger),
            *await sweep.blocked(ledger),
        ]
        await sweep.tidy(ledger, config)
        return deeds
    except Exception as error:
        if isinstance(error, VashSenderError) or not is_unavailable(error):
            raise
        raise UnavailableError(f"the database cannot be reached: {in_a_line(error)}") from error
    finally:
        await ledger.close()


def _json(deeds: Sequence[Deed]) -> list[str]:
    """One object per deed, then one with the number of each kind."""
    kinds = [deed.kind.value for deed in deeds]
    lines = [orjson.dumps(asdict(deed), default=str).decode() for deed in deeds]
    return [*lines, orjson.dumps({"summary": {kind: kinds.count(kind) for kind in sorted(set(kinds))}}).decode()]


def _text(deeds: Sequence[Deed]) -> list[str]:
    lines = [f"{deed.kind.value:7} {deed.reason:26} campaign {deed.campaign_id}  {deed.text}" for deed in deeds]
    return [*lines, f"{len(deeds)} found" if deeds else "The ledger is sound: nothing to mend."]
