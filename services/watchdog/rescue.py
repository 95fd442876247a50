"""Rescuing batches that no sender works on.

The ledger confirms each rescue by its own clock, in one conditional update, so two watchdogs, or one that has just
started, never take a batch from a healthy sender.
"""

from collections.abc import Sequence

from sqlalchemy import BindParameter, ColumnElement, Float, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.watchdog.findings import Finding, Kind, RescueReason
from services.watchdog.heartbeats import Stalled
from shared.events import SenderHeartbeat
from shared.ledger import instances, timeline
from shared.ledger.batches import RESCUE_POINTS, in_state, lease_expired, requeue, takes_place
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch
from shared.ledger.states import BatchState
from shared.settings import WatchdogSettings

AT_ONCE = 100
"""Batches rescued in one transaction."""

_ANY_OUT = select(col(Batch.id)).where(in_state(BatchState.RELEASED, BatchState.SENDING)).limit(1)

_EXPIRED = select(col(Batch.id), col(Batch.owner)).where(lease_expired()).limit(AT_ONCE)


def _late(seconds: float | BindParameter[float]) -> ColumnElement[bool]:
    """The batch was released this many seconds ago, and no sender has claimed it."""
    return in_state(BatchState.RELEASED) & (col(Batch.released_at) < db_now() - seconds)


_LATE = select(col(Batch.id)).where(_late(bindparam("seconds", type_=Float))).limit(AT_ONCE)


async def any_out(ledger: Ledger) -> bool:
    """Whether a batch is released or being sent: the others need no rescue."""
    return bool(await ledger.read_alone(_ANY_OUT, {}))


async def leases(ledger: Ledger) -> Sequence[Finding]:
    """Rescues batches being sent whose lease has expired."""
    found = await ledger.read_alone(_EXPIRED, {})
    if not found:
        return []
    owners = {row.id: row.owner for row in found}
    async with ledger.write() as connection:
        findings = [
            Finding(
                Kind.RESCUE,
                RescueReason.LEASE.value,
                batch.campaign_id,
                f"Batch {batch.batch_id} was taken back from {owners[batch.batch_id]}: its lease ran out",
                batch.batch_id,
                batch.generation,
            )
            for batch in await requeue(connection, col(Batch.id).in_(owners), lease_expired(), rescued=RESCUE_POINTS)
        ]
        await _note(connection, findings)
    return findings


async def stalled(ledger: Ledger, suspects: Sequence[Stalled]) -> Sequence[Finding]:
    """Rescues batches whose lease is renewed but which make no progress, at the generation that the heartbeat named."""
    findings: list[Finding] = []
    for suspect in suspects:
        batch = suspect.batch
        if suspect.reason == RescueReason.STALLED:
            why = f"it made no progress for {batch.idle_seconds:.0f} s"
        else:
            why = f"it was held for {batch.age_seconds:.0f} s"
        async with ledger.write() as connection:
            taken = [
                Finding(
                    Kind.RESCUE,
                    suspect.reason.value,
                    again.campaign_id,
                    f"Batch {again.batch_id} was taken back from {suspect.instance}: {why}",
                    again.batch_id,
                    again.generation,
                )
                for again in await requeue(
                    connection,
                    col(Batch.id) == batch.batch_id,
                    col(Batch.generation) == batch.generation,
                    in_state(BatchState.SENDING),
                    rescued=RESCUE_POINTS,
                )
            ]
            await _note(connection, taken)
        findings += taken
    return findings


async def tickets(ledger: Ledger, settings: WatchdogSettings, senders: Sequence[SenderHeartbeat]) -> Sequence[Finding]:
    """Releases batches again that no sender claims although one could: a place is free, or nothing is being sent.

    While all senders are busy, or none has a usable relay, a batch may wait indefinitely."""
    if none_has_a_relay(senders):
        return []
    patience = settings.ticket_lost_seconds
    found = [row.id for row in await ledger.read_alone(_LATE, {"seconds": patience})]
    if not found:
        return []
    async with ledger.read() as connection:
        busy = (await connection.execute(select(func.count()).select_from(Batch).where(takes_place()))).scalar_one()
        capacity = await instances.live_capacity(connection, lost_seconds=settings.instance_lost_seconds)
        capacity -= sum(sender.slots for sender in senders if sender.blocked)
    if 0 < busy >= capacity:
        return []
    async with ledger.write() as connection:
        findings = [
            Finding(
                Kind.RESCUE,
                RescueReason.TICKET.value,
                batch.campaign_id,
                f"Batch {batch.batch_id} was released, and no sender claimed it for {patience:g} s",
                batch.batch_id,
                batch.generation,
            )
            for batch in await requeue(connection, col(Batch.id).in_(found), _late(patience))
        ]
        await _note(connection, findings)
    return findings


def none_has_a_relay(senders: Sequence[SenderHeartbeat]) -> bool:
    """There are live senders, and every one that is not stopping reports that it has no usable relay."""
    working = [sender for sender in senders if not sender.draining]
    return bool(working) and all(sender.blocked for sender in working)


async def _note(connection: AsyncConnection, findings: Sequence[Finding]) -> None:
    for finding in findings:
        await timeline.record(connection, finding.campaign_id, "rescued", finding.text)
