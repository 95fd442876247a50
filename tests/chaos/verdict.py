"""Judges an experiment: compares the ledger with what the relay received, recipient by recipient."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from shared.ledger.models import Batch, Recipient, Suppression
from shared.ledger.states import LIVE
from tests.chaos.world import World
from tests.support.ledger import assert_sound

PAUSE_SECONDS = 1.0  # within which a pause, a cancel or `deliver_by` must take effect
BUSY_LOAD = 1.5  # load average per processor above which a machine counts as overloaded
SHOWN = 3


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment."""

    fault: str
    ledger: str
    seed: int
    recipients: int
    #: Recipients that are `sent` in the ledger but not at the relay, or that ended in a status they may not have.
    lost: int
    #: Copies beyond the first, over all recipients.
    duplicated: int
    allowed_duplicates: int
    #: Recipients by status.
    counts: Mapping[str, int]
    #: Emails per second at the relay before and after the fault.
    rate_before: float
    rate_after: float
    #: Seconds from the end of the fault until mail flowed as before. None: not measured.
    recovery_seconds: float | None
    #: The longest time until another sender claimed a batch of a killed one. None: no sender was killed.
    reclaimed_seconds: float | None
    #: The latest first body byte after a pause, a cancel or `deliver_by`. None: there was none of these.
    late_seconds: float | None
    #: Duration of the whole experiment.
    seconds: float
    #: Every broken promise.
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


async def judge(world: World, answer: Mapping[str, Any] | None, **measured: Any) -> Outcome:
    """Compares both sides and lists every broken promise."""
    problems = list(world.problems)
    if answer is not None and answer["status"] != world.fault.final_status:
        problems.append(f"the campaign ended as {answer['status']}, not {world.fault.final_status}: {answer['reason']}")
    statuses = await world.query(lambda: _statuses(world))
    copies = world.relay.copies
    claimed = {email for email, status in statuses.items() if status == "sent"}
    missing = claimed - copies.keys()
    if missing:
        problems.append(f"{len(missing)} are sent in the ledger, but the relay never received them: {_some(missing)}")
    wrong = {
        email: status
        for email, status in statuses.items()
        if status not in world.fault.allowed_statuses or (status == "failed" and email not in world.refused)
    }
    if wrong:
        problems.append(f"{len(wrong)} ended as {dict(Counter(wrong.values()))}: {_some(wrong)}")
    unrecorded = {email for email in copies.keys() - claimed if statuses.get(email) != "unknown"} - world.ambiguous
    if unrecorded:
        problems.append(
            f"{len(unrecorded)} were accepted by the relay but are not sent in the ledger: {_some(unrecorded)}"
        )
    duplicated = sum(count - 1 for count in copies.values())
    if duplicated > world.allowed_duplicates:
        problems.append(f"{duplicated} duplicates, {world.allowed_duplicates} allowed")
    late = _late_seconds(world)
    if late is not None and late > PAUSE_SECONDS:
        problems.append(f"an email began {late:.2f} s after a pause, a cancel or deliver_by")
    factor = overload_factor()
    problems += [
        f"a killed sender's batch was claimed again after {seconds:.1f} s, promised: {promised * factor:.1f} s"
        for seconds, promised in world.reclaimed_seconds
        if seconds > promised * factor
    ]
    problems += await _ledger_problems(world)
    problems += await _suppression_problems(world)
    problems += _inconsistent_message_ids(world)
    return Outcome(
        fault=world.fault.name,
        ledger=world.conditions.ledger,
        seed=world.conditions.seed,
        recipients=len(statuses),
        lost=len(missing | wrong.keys()),
        duplicated=duplicated,
        allowed_duplicates=world.allowed_duplicates,
        counts=dict(Counter(statuses.values())),
        reclaimed_seconds=max((seconds for seconds, _ in world.reclaimed_seconds), default=None),
        late_seconds=late,
        problems=tuple(problems),
        notes=(*([world.schedule] if world.schedule else []), *_errors_in_logs(world)),
        **measured,
    )


def overload_factor() -> float:
    """By how much promised times stretch on an overloaded machine, where processes start slowly. At least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / BUSY_LOAD)


async def _statuses(world: World) -> dict[str, str]:
    """Status by email address, over all campaigns."""
    async with world.observer.read() as connection:
        rows = await connection.execute(
            select(col(Recipient.email), col(Recipient.status)).where(
                col(Recipient.campaign_id).in_([UUID(campaign) for campaign in world.campaigns])
            )
        )
        return {row[0]: row[1] for row in rows}


async def _ledger_problems(world: World) -> list[str]:
    """Violated invariants of the ledger, and batches still live after the end."""
    try:
        await world.query(lambda: assert_sound(world.observer))
    except AssertionError as error:
        return [f"the ledger is not sound: {error}".splitlines()[0]]
    async with world.observer.read() as connection:
        left = (
            await connection.execute(select(col(Batch.id)).where(col(Batch.state).in_([state.value for state in LIVE])))
        ).all()
    return [f"{len(left)} batches are live after the end"] if left else []


async def _suppression_problems(world: World) -> list[str]:
    """Addresses suppressed although no relay has said that a mailbox does not exist."""
    async with world.observer.read() as connection:
        emails = {row[0] for row in await connection.execute(select(col(Suppression.email)))}
    return [f"{len(emails)} addresses were suppressed: {_some(emails)}"] if emails else []


def _late_seconds(world: World) -> float | None:
    late = None
    for quiet in world.quiet_periods:
        inside = [at - quiet.answered_at for at, _ in world.relay.first_bytes if quiet.answered_at < at < quiet.until]
        late = max(late or 0.0, max(inside, default=0.0))
    return late


def _inconsistent_message_ids(world: World) -> list[str]:
    """Recipients whose copies carry different Message-IDs, or none."""
    ids: dict[str, set[str]] = {}
    for email in world.relay.received:
        ids.setdefault(email.rcpt, set()).add(email.message_id)
    inconsistent = [rcpt for rcpt, known in ids.items() if len(known) != 1 or "" in known]
    return (
        [f"{len(inconsistent)} recipients got copies with different Message-IDs: {_some(inconsistent)}"]
        if inconsistent
        else []
    )


def _errors_in_logs(world: World) -> list[str]:
    """Errors that the services logged, most frequent first, to be read by a person."""
    errors = Counter[str]()
    for name, process in world.processes.items():
        for line in process.log_text().splitlines():
            if '"level": "error"' in line or line.startswith("Traceback"):
                errors[f"{name}: {line[:300]}"] += 1
    return [f"{count} x {text}" for text, count in errors.most_common(5)]


def _some(emails: Any) -> str:
    return ", ".join(sorted(emails)[:SHOWN])
