"""What came of an experiment, recipient by recipient: the ledger's word against the relay's own account."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from shared.ledger.models import Batch, Recipient
from shared.ledger.states import LIVE
from tests.chaos.world import World
from tests.support.ledger import assert_sound

PAUSE_SECONDS = 1.0  # an email may start so long after a pause was answered
BUSY_LOAD = 1.5  # per processor, above which a machine is overloaded
SHOWN = 3


@dataclass(frozen=True)
class Outcome:
    """One experiment. `again_seconds`: the longest a killed sender's batch was in nobody's hands. `late_seconds`: the
    last first byte after a pause, a cancel or deliver_by. None: there was nothing to measure."""

    fault: str
    ledger: str
    seed: int
    recipients: int
    lost: int
    duplicated: int
    bound: int
    counts: Mapping[str, int]
    rate_before: float
    rate_after: float
    recovery_seconds: float | None
    again_seconds: float | None
    late_seconds: float | None
    seconds: float
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def judge(it: World, answer: Mapping[str, Any] | None, **measured: Any) -> Outcome:
    """Compares both accounts and lists every promise that was broken."""
    problems = list(it.problems)
    if answer is not None and answer["status"] != it.fault.ends_as:
        problems.append(f"the campaign ended as {answer['status']}, not {it.fault.ends_as}: {answer['reason']}")
    statuses = await it.ask(lambda: _statuses(it))
    copies = it.relay.copies
    claimed = {email for email, status in statuses.items() if status == "sent"}
    missing = claimed - copies.keys()
    if missing:
        problems.append(f"{len(missing)} are called sent that the relay never got: {_some(missing)}")
    astray = {
        email: status
        for email, status in statuses.items()
        if status not in it.fault.may_be or (status == "failed" and email not in it.refused)
    }
    if astray:
        problems.append(f"{len(astray)} ended as {dict(Counter(astray.values()))}: {_some(astray)}")
    unrecorded = {email for email in copies.keys() - claimed if statuses.get(email) != "unknown"} - it.in_doubt
    if unrecorded:
        problems.append(f"{len(unrecorded)} were taken by the relay and are not called sent: {_some(unrecorded)}")
    duplicated = sum(count - 1 for count in copies.values())
    if duplicated > it.bound:
        problems.append(f"{duplicated} duplicates, {it.bound} allowed")
    late = _late_seconds(it)
    if late is not None and late > PAUSE_SECONDS:
        problems.append(f"an email began {late:.2f} s after a pause, a cancel or deliver_by")
    stretch = _stretch()
    problems += [
        f"a killed sender's batch was in work again after {seconds:.1f} s, promised: {promised * stretch:.1f} s"
        for seconds, promised in it.again_seconds
        if seconds > promised * stretch
    ]
    problems += await _unsound(it)
    problems += _torn_identities(it)
    return Outcome(
        fault=it.fault.name,
        ledger=it.conditions.ledger,
        seed=it.conditions.seed,
        recipients=len(statuses),
        lost=len(missing | astray.keys()),
        duplicated=duplicated,
        bound=it.bound,
        counts=dict(Counter(statuses.values())),
        again_seconds=max((seconds for seconds, _ in it.again_seconds), default=None),
        late_seconds=late,
        problems=tuple(problems),
        notes=(*([it.schedule] if it.schedule else []), *_errors_in_logs(it)),
        **measured,
    )


def _stretch() -> float:
    """How much longer a second is on a machine that is asked for more than it has: a process then takes so much longer
    to start, whatever it is. 1 on a machine that is only busy."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / BUSY_LOAD)


async def _statuses(it: World) -> dict[str, str]:
    """Every recipient's status, of all campaigns."""
    async with it.eyes.read() as connection:
        rows = await connection.execute(
            select(col(Recipient.email), col(Recipient.status)).where(
                col(Recipient.campaign_id).in_([UUID(campaign) for campaign in it.campaigns])
            )
        )
        return {row[0]: row[1] for row in rows}


async def _unsound(it: World) -> list[str]:
    """The invariants of the ledger; no live batch may be left."""
    try:
        await it.ask(lambda: assert_sound(it.eyes))
    except AssertionError as error:
        return [f"the ledger is not sound: {error}".splitlines()[0]]
    async with it.eyes.read() as connection:
        left = (
            await connection.execute(select(col(Batch.id)).where(col(Batch.state).in_([state.value for state in LIVE])))
        ).all()
    return [f"{len(left)} batches are live after the end"] if left else []


def _late_seconds(it: World) -> float | None:
    late = None
    for quiet in it.quiet:
        inside = [at - quiet.answered_at for at, _ in it.relay.first_bytes if quiet.answered_at < at < quiet.until]
        late = max(late or 0.0, max(inside, default=0.0))
    return late


def _torn_identities(it: World) -> list[str]:
    """Message-ID is the same on every attempt, and nobody else's."""
    ids: dict[str, set[str]] = {}
    for email in it.relay.received:
        ids.setdefault(email.rcpt, set()).add(email.message_id)
    torn = [rcpt for rcpt, known in ids.items() if len(known) != 1 or "" in known]
    return [f"{len(torn)} recipients got copies of different Message-IDs: {_some(torn)}"] if torn else []


def _errors_in_logs(it: World) -> list[str]:
    """What the services themselves called an error: for a person to read."""
    errors = Counter[str]()
    for name, process in it.processes.items():
        for line in process.log_text().splitlines():
            if '"level": "error"' in line or line.startswith("Traceback"):
                errors[f"{name}: {line[:300]}"] += 1
    return [f"{count} x {text}" for text, count in errors.most_common(5)]


def _some(emails: Any) -> str:
    return ", ".join(sorted(emails)[:SHOWN])
