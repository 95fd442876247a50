"""Gauges that the dispatcher fills from the ledger: the numbers to scale on, and labels that stay bounded."""

import pytest
from sqlalchemy import update
from sqlmodel import col

from services.dispatcher.metrics import CAMPAIGNS_SHOWN
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Batch, Campaign
from tests.support.seeds import Seeded, seed_campaign
from tests.support.services import DispatcherRig

HOUR = 3600.0


async def defer(ledger: Ledger, seeded: Seeded, emails: int, due_in: float) -> None:
    """Makes recipients of the campaign's first batch wait for a retry."""
    async with ledger.write() as connection:
        await connection.execute(
            update(Batch)
            .where(col(Batch.id) == seeded.batch_ids[0])
            .values(pending=col(Batch.pending) - emails, deferred=emails, state="waiting", due_at=db_now() + due_in)
        )


async def test_the_backlog_is_what_more_senders_could_send(ledger: Ledger) -> None:
    rig = DispatcherRig.on(ledger)
    await seed_campaign(ledger, 40)
    await seed_campaign(
        ledger, 500, batches=False, emails_per_second=0.5
    )  # 30 a minute, however many senders there are
    await seed_campaign(ledger, 70, status="paused")
    later = await seed_campaign(ledger, 20)
    await defer(ledger, later, 5, due_in=HOUR)
    await rig.metrics.refresh()
    assert rig.value("backlog_emails") == 40 + 30 + 15
    assert rig.value("open_emails", status="pending") == 40 + 500 + 70 + 15
    assert rig.value("open_emails", status="deferred") == 5

    async with ledger.write() as connection:
        await connection.execute(update(Batch).where(col(Batch.id) == later.batch_ids[0]).values(due_at=db_now() - 1.0))
    await rig.metrics.refresh()
    assert rig.value("backlog_emails") == 40 + 30 + 15 + 5


async def test_the_oldest_email_and_the_deadline_it_has_used(ledger: Ledger) -> None:
    rig = DispatcherRig.on(ledger)
    await seed_campaign(ledger, 3, started_at=db_now() - HOUR, deliver_by=db_now() + 3 * HOUR)
    await seed_campaign(ledger, 3, started_at=db_now() - 9 * HOUR, status="paused")
    await rig.metrics.refresh()
    assert rig.value("oldest_unsent_seconds") == pytest.approx(HOUR, abs=60)
    assert rig.value("deadline_used_ratio") == pytest.approx(0.25, abs=0.01)


async def test_progress_is_shown_of_the_newest_fifty_and_goes_when_they_close(ledger: Ledger) -> None:
    rig = DispatcherRig.on(ledger)
    seeded = [await seed_campaign(ledger, 1, name=f"number {number}") for number in range(CAMPAIGNS_SHOWN + 2)]
    await rig.metrics.refresh()
    assert shown(rig) == {str(one.id) for one in seeded[2:]}
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == seeded[-1].id).values(status="finished"))
    await rig.metrics.refresh()
    assert shown(rig) == {str(one.id) for one in seeded[1:-1]}


def shown(rig: DispatcherRig) -> set[str]:
    families = rig.metrics.common.registry.collect()
    return {
        sample.labels["campaign"]
        for family in families
        if family.name == "vashsender_campaign_emails"
        for sample in family.samples
    }
