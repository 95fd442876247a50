"""Taking back batches that nobody works on. The ledger confirms each one by its own clock, in one conditional update:
so two watchdogs, or a watchdog that just started, never rob a healthy sender."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.watchdog.deeds import Deed, Kind, RescueReason
from services.watchdog.heartbeats import Stalled
from shared.events import SenderHeartbeat
from shared.ledger import instances, timeline
from shared.ledger.batches import holds_slot, in_state, lease_expired, requeue
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch
from shared.ledger.states import BatchState
from shared.settings import WatchdogSettings

AT_ONCE = 100
"""Batches taken back in one transaction."""


async def leases(ledger: Ledger) -> Sequence[Deed]:
    """Batches being sent whose lease has run out."""
    async with ledger.read() as connection:
        found = (
            await connection.execute(select(col(Batch.id), col(Batch.owner)).where(lease_expired()).limit(AT_ONCE))
        ).all()
    if not found:
        return []
    owners = {row.id: row.owner for row in found}
    async with ledger.write() as connection:
        deeds = [
            Deed(
                Kind.RESCUE,
                RescueReason.LEASE.value,
                batch.campaign_id,
                f"Batch {batch.batch_id} was taken back from {owners[batch.batch_id]}: its lease ran out",
                batch.batch_id,
                batch.generation,
            )
            for batch in await requeue(connection, col(Batch.id).in_(owners), lease_expired(), rescued=True)
        ]
        await _note(connection, deeds)
    return deeds


async def standing_still(ledger: Ledger, stalled: Sequence[Stalled]) -> Sequence[Deed]:
    """Batches whose lease is renewed but which do not move, at the generation their sender told of."""
    deeds: list[Deed] = []
    for suspect in stalled:
        batch = suspect.batch
        if suspect.reason == RescueReason.STALLED:
            why = f"nothing came of it for {batch.idle_seconds:.0f} s"
        else:
            why = f"it was in hand for {batch.age_seconds:.0f} s"
        async with ledger.write() as connection:
            taken = [
                Deed(
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
                    rescued=True,
                )
            ]
            await _note(connection, taken)
        deeds += taken
    return deeds


async def tickets(ledger: Ledger, settings: WatchdogSettings, senders: Sequence[SenderHeartbeat]) -> Sequence[Deed]:
    """Released batches that nobody claims although somebody could: a slot is known to be free, or nothing at all is
    being sent. While all are busy, or none has a relay that can be used, a batch may wait as long as it takes."""
    if none_has_a_relay(senders):
        return []
    late = in_state(BatchState.RELEASED) & (col(Batch.released_at) < db_now() - settings.ticket_lost_seconds)
    async with ledger.read() as connection:
        found = list((await connection.execute(select(col(Batch.id)).where(late).limit(AT_ONCE))).scalars())
        if not found:
            return []
        busy = (await connection.execute(select(func.count()).select_from(Batch).where(holds_slot()))).scalar_one()
        slots = await instances.live_slots(connection, lost_seconds=settings.instance_lost_seconds)
        slots -= sum(sender.slots for sender in senders if sender.blocked)
    if 0 < busy >= slots:
        return []
    async with ledger.write() as connection:
        deeds = [
            Deed(
                Kind.RESCUE,
                RescueReason.TICKET.value,
                batch.campaign_id,
                f"Batch {batch.batch_id} was released, and nobody claimed it for {settings.ticket_lost_seconds:g} s",
                batch.batch_id,
                batch.generation,
            )
            for batch in await requeue(connection, col(Batch.id).in_(found), late)
        ]
        await _note(connection, deeds)
    return deeds


def none_has_a_relay(senders: Sequence[SenderHeartbeat]) -> bool:
    """Senders live, and each that is not stopping says that no relay of its can be used."""
    working = [sender for sender in senders if not sender.draining]
    return bool(working) and all(sender.blocked for sender in working)


async def _note(connection: AsyncConnection, deeds: Sequence[Deed]) -> None:
    for deed in deeds:
        await timeline.record(connection, deed.campaign_id, "rescued", deed.text)
