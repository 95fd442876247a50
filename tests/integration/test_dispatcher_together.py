"""Many small campaigns: they are started and closed together, and what is idle costs next to nothing."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select, text
from sqlmodel import col

from services.dispatcher import closing, dispatcher
from services.dispatcher.breakers import ALL_SECONDS, Breakers
from shared.events import CampaignFinished
from shared.ledger import outbox
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.outbox_tables import EventStream, Outbox
from tests.support.ledger import FakeSender, add_campaign, campaign_row, statements_of, timeline_of
from tests.support.services import DispatcherRig, WatchdogRig, register_sender

CAMPAIGNS = 20


def work(seen: list[tuple[str, Any]]) -> list[str]:
    return [statement for statement, _ in seen if not statement.startswith("BEGIN")]


async def run(ledger: Ledger, rig: DispatcherRig) -> None:
    """Sends everything, and closes what can be closed."""
    sender = FakeSender(ledger)
    while await rig.round() or await sender.send_all_released():
        await sender.send_all_released()


async def test_small_campaigns_close_together_without_a_job(ledger: Ledger) -> None:
    await register_sender(ledger, 2 * CAMPAIGNS)
    ids = [await add_campaign(ledger, 5) for _ in range(CAMPAIGNS)]
    rig = DispatcherRig.on(ledger)
    await run(ledger, rig)
    for id_ in ids:
        row = await campaign_row(ledger, id_)
        assert (row.status, row.reason, row.finished_at is not None) == ("finished", None, True)
        assert [kind for kind, _ in await timeline_of(ledger, id_)] == ["started", "finished"]
    assert {one.campaign_id for one in rig.bus.of(CampaignFinished)} == set(ids)
    assert rig.value("campaigns_closed_total", status="finished") == CAMPAIGNS
    assert rig.value("turn_seconds_count") == 0


async def test_the_programs_of_a_project_are_told_of_each_campaign(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, wanted=True))
    await register_sender(ledger, 10)
    ids = [await add_campaign(ledger, 5) for _ in range(3)]
    await run(ledger, DispatcherRig.on(ledger))
    async with ledger.read() as connection:
        stored = (await connection.execute(select(col(Outbox.facts), col(Outbox.size)))).all()
    told = [fact for row in stored for fact in outbox.unpack(row.facts, row.size)]
    for kind in ("campaign.started", "campaign.finished"):
        assert {fact["campaign_id"] for fact in told if fact["type"] == kind} == set(map(str, ids))
    assert all(fact["counts"]["sent"] == 5 for fact in told if fact["type"] == "campaign.finished")


async def test_a_small_campaign_whose_rows_disagree_is_repaired_and_not_closed(ledger: Ledger) -> None:
    """Its batch says that all are sent, but a row is pending."""
    await register_sender(ledger, 10)
    wrong, right = await add_campaign(ledger, 5), await add_campaign(ledger, 5)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    await rig.settle()
    await sender.send_all_released()
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "UPDATE recipient SET status = 'pending' WHERE id ="
                " (SELECT min(r.id) FROM recipient r WHERE r.campaign_id ="
                " (SELECT campaign_id FROM batch ORDER BY id LIMIT 1))"
            )
        )
        first = await connection.scalar(text("SELECT campaign_id FROM batch ORDER BY id LIMIT 1"))
    wrong, right = (wrong, right) if UUID(str(first)) == wrong else (right, wrong)
    await rig.round()
    assert (await campaign_row(ledger, right)).status == "finished"
    assert (await campaign_row(ledger, wrong)).status == "sending"
    assert rig.value("repairs_total", reason="counts_disagreed") == 1
    await run(ledger, rig)
    assert (await campaign_row(ledger, wrong)).status == "finished"


async def test_a_small_campaign_in_which_some_failed_says_why(ledger: Ledger) -> None:
    await register_sender(ledger, 10)
    campaign = await add_campaign(ledger, 5)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    await rig.settle()
    held = await sender.claim(*(await sender.released())[0])
    assert held is not None
    await sender.record(held, "failed")
    await sender.finish(held)
    await rig.settle()
    row = await campaign_row(ledger, campaign)
    assert row.status == "failed"
    assert row.reason.startswith("all 5 failed; most often:")


async def test_an_error_on_one_campaign_closes_the_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await register_sender(ledger, 10)
    ids = [await add_campaign(ledger, 5) for _ in range(4)]
    real = closing.close_small

    async def fail_on_one(ledger: Ledger, campaign_ids: Collection[UUID]) -> object:
        if ids[1] in campaign_ids:
            raise RuntimeError("this one is poison")
        return await real(ledger, campaign_ids)

    monkeypatch.setattr(closing, "close_small", fail_on_one)
    rig, sender = DispatcherRig.on(ledger), FakeSender(ledger)
    await rig.settle()
    await sender.send_all_released()
    await rig.round()
    closed = [one for one in ids if (await campaign_row(ledger, one)).status == "finished"]
    assert [one for one in ids if one != ids[1]] == [one for one in closed if one != ids[1]]


async def test_an_idle_dispatcher_executes_one_statement_a_second(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many campaigns are paused; and two if some wait for a retry."""
    monkeypatch.setattr(dispatcher, "IDLE_SECONDS", 1e6)
    for _ in range(20):
        await add_campaign(ledger, 1, status="paused")
    rig = DispatcherRig.on(ledger)
    await rig.settle()
    with statements_of(ledger) as seen:
        for _ in range(5):
            assert not await rig.round()
    assert len(work(seen)) == 5, work(seen)
    await add_campaign(ledger, 1, status="sending", started_at=0.0, cursor=10**6)
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, deferred)"
                " SELECT id, 1, 1, 1, 'waiting', 1e10, 1 FROM campaign WHERE status = 'sending'"
            )
        )
    again = DispatcherRig.on(ledger)
    await again.settle()
    with statements_of(ledger) as seen:
        for _ in range(5):
            assert not await again.round()
    assert len(work(seen)) == 10, work(seen)


async def test_an_idle_dispatcher_finds_a_campaign_that_no_event_names(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register_sender(ledger, 2)
    rig = DispatcherRig.on(ledger)
    await rig.settle()
    campaign = await add_campaign(ledger, 5, status="sending", started_at=0.0)
    monkeypatch.setattr(dispatcher, "IDLE_SECONDS", 0.0)
    await run(ledger, rig)
    assert (await campaign_row(ledger, campaign)).status == "finished"


async def test_an_idle_watchdog_executes_one_statement_a_second(ledger: Ledger) -> None:
    await add_campaign(ledger, 1, status="paused")
    rig = WatchdogRig.on(ledger)
    with statements_of(ledger) as seen:
        await rig.watchdog.look()
    assert len(work(seen)) > 1, "the first look executes all, so that they are compiled before a campaign"
    with statements_of(ledger) as seen:
        for _ in range(5):
            await rig.watchdog.look()
    assert len(work(seen)) == 5, work(seen)


async def test_breakers_look_at_campaigns_with_batches_out_and_once_a_minute_at_all(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await add_campaign(ledger, 2000, status="sending", started_at=0.0, cursor=0)
    rig = DispatcherRig.on(ledger)
    out: list[UUID] = []
    breakers = Breakers(ledger, rig.metrics, 0.2, lambda: out, lambda: None)
    await breakers.tick()
    await register_sender(ledger, 10)
    await rig.settle()
    async with ledger.write() as connection:
        await connection.execute(text("UPDATE batch SET pending = 0, failed = size, gone = size"))
    with statements_of(ledger) as seen:
        await breakers.tick()
    assert work(seen) == []
    assert (await campaign_row(ledger, campaign)).status == "sending"
    monkeypatch.setattr(breakers, "_all_at", breakers._all_at - ALL_SECONDS)
    await breakers.tick()
    assert (await campaign_row(ledger, campaign)).status == "paused", "found without a batch that was seen out"
    async with ledger.write() as connection:
        await connection.execute(text("UPDATE campaign SET status = 'sending', breaker = NULL"))
    out.append(campaign)
    await breakers.tick()
    assert (await campaign_row(ledger, campaign)).status == "paused"
