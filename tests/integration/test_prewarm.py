"""What a service executes as it starts changes nothing, and is what its first campaign needs, on both databases."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from sqlalchemy import Dialect, event, select, text
from sqlalchemy.engine.interfaces import CacheStats
from sqlmodel import SQLModel

from cli.local.ports import free_port
from services.api.prewarm import NO_TENANT, accept_nothing
from services.api.shapes.campaigns import SendIn
from services.api.usecases import actions
from services.api.usecases.campaign_row import CampaignRef
from services.dispatcher.breakers import Breakers
from services.dispatcher.history import History
from services.dispatcher.prewarm import dispatch_nothing
from services.sender.db import campaigns, claims
from services.sender.db.prewarm import send_nothing
from services.sender.db.record import Group, record
from services.sender.db.worklist import read_worklist
from services.sender.results import Result
from shared.content import CampaignContent
from shared.ledger import database, rate_limits
from shared.ledger.database import Ledger
from shared.ledger.direct import DirectQuery, Query
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.prewarm import prewarm
from shared.ledger.rate_limits import relay_scope
from shared.ledger.states import CampaignStatus
from tests.support.api import SEND_SETTINGS
from tests.support.ledger import FakeSender, Held, add_campaign, campaign_row, statements_of
from tests.support.services import DispatcherRig, register_sender

SEND_NOTHING = partial(send_nothing, relay_scopes=[relay_scope("a")])
OF_SERVICES = pytest.mark.parametrize("execute", [accept_nothing, dispatch_nothing, SEND_NOTHING])


@contextmanager
def compiled(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that are compiled inside, because they had not been before."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        if context.cache_hit is CacheStats.CACHE_MISS:
            found.append(statement)

    def make_direct(query: Query, dialect: Dialect, values: Mapping[str, Any]) -> DirectQuery:
        direct = DirectQuery(query, dialect, values)
        found.append(direct.statement)
        return direct

    for engine in ledger.engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        with patch.object(database, "DirectQuery", make_direct):
            yield found
    finally:
        for engine in ledger.engines:
            event.remove(engine, "before_cursor_execute", note)


async def everything(ledger: Ledger) -> dict[str, list[Any]]:
    async with ledger.read() as connection:
        return {
            table.name: sorted(map(repr, await connection.execute(select(table))))
            for table in SQLModel.metadata.sorted_tables
        }


@OF_SERVICES
async def test_it_changes_nothing(ledger: Ledger, execute: Callable[[Ledger], Awaitable[None]]) -> None:
    """With a campaign of each kind: queued, being sent, and spent but not closed."""
    dispatcher = DispatcherRig.on(ledger, batch_size=10)
    spent, _ = await add_campaign(ledger, 10), await add_campaign(ledger, 30)
    await register_sender(ledger, 2)
    await dispatcher.settle()
    sender = FakeSender(ledger)
    for batch_id, generation in (await sender.released())[:2]:
        held = await sender.claim(batch_id, generation)
        assert held is not None
        await sender.record(held)
        await sender.finish(held)
    await add_campaign(ledger, 10, status=CampaignStatus.QUEUED)
    assert (await campaign_row(ledger, spent)).status == CampaignStatus.SENDING
    before = await everything(ledger)
    with statements_of(ledger) as executed:
        await prewarm(ledger, execute, 2)
    assert executed
    assert await everything(ledger) == before


async def test_a_sender_compiles_nothing_for_its_first_batch(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 10)
    await register_sender(ledger, 2)
    await DispatcherRig.on(ledger, batch_size=10).settle()
    ((batch_id, generation),) = await FakeSender(ledger).released()
    await prewarm(ledger, SEND_NOTHING, 2)
    with compiled(ledger) as found:
        claim = await claims.claim(ledger, batch_id, generation, "sender-1@test", 15.0)
        assert claim is not None
        await campaigns.read_content(ledger, campaign)
        assert len(await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 100)) == 10
        await claims.look(ledger, [batch_id], {DEFAULT_PROJECT: ["person-1@example.test"]})
    assert not found
    await FakeSender(ledger).record(Held(batch_id, claim.generation, claim.first_id, claim.last_id))
    with compiled(ledger) as found:
        assert (await claims.let_go(ledger, claim, keep_date=False)).state == "done"
    assert not found


async def test_a_batch_needs_no_connection_of_the_pool(postgresql_url: str) -> None:
    """Its statements are prepared on the others, while the pool opens new connections whenever clocks need them."""
    ledger = Ledger(postgresql_url, pool_size=1)
    campaign = await add_campaign(ledger, 10)
    await register_sender(ledger, 1)
    await DispatcherRig.on(ledger, batch_size=10).settle()
    ((batch_id, generation),) = await FakeSender(ledger).released()
    await prewarm(ledger, SEND_NOTHING, 1)
    async with ledger.read():  # takes the only one
        claim = await claims.claim(ledger, batch_id, generation, "sender-1@test", 15.0)
        assert claim is not None
        _, content = await campaigns.read(ledger, campaign)
        assert content == "{}"
        assert await rate_limits.read_alone(ledger, [relay_scope("a")]) == {}
        rows = await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 100)
        await claims.look(ledger, [batch_id], {DEFAULT_PROJECT: ["person-1@example.test"]})
        results = [Result(row.id, row.email, row.status, row.attempts, "sent", row.attempts + 1) for row in rows]
        group = Group(batch_id, claim.generation, campaign, DEFAULT_PROJECT, results)
        assert not (await record(ledger, [group], 15.0))[batch_id].lost
        assert (await claims.let_go(ledger, claim, keep_date=False)).state == "done"
    await ledger.close()


async def test_a_dispatcher_compiles_little_for_its_first_campaign(ledger: Ledger) -> None:
    await register_sender(ledger, 3)
    dispatcher = DispatcherRig.on(ledger, batch_size=10)
    await dispatcher.settle()
    await prewarm(ledger, dispatch_nothing, 2)
    await add_campaign(ledger, 30)
    with compiled(ledger) as found:
        await dispatcher.settle()
    assert len(await FakeSender(ledger).released()) == 3
    writes_new = ("INSERT", "UPDATE campaign SET cursor")
    assert not [one for one in found if not one.startswith(writes_new)], "nothing but what writes its new rows"


async def test_a_dispatcher_compiles_little_while_its_first_campaign_is_sent(ledger: Ledger) -> None:
    rig = DispatcherRig.on(ledger, batch_size=10)
    out: list[UUID] = []
    history = History(ledger, lambda: out)
    breakers = Breakers(ledger, rig.metrics, 0.2, lambda: out, lambda: None)
    await breakers.tick()  # looks at all
    await prewarm(ledger, dispatch_nothing, 2)
    out.append(await add_campaign(ledger, 30, status="sending", started_at=0.0))
    with compiled(ledger) as found:
        await breakers.tick()
        await history.tick()
    assert not [one for one in found if "progress_point" not in one], "nothing but its first point"


async def test_an_api_compiles_little_for_the_first_campaign_that_is_sent(ledger: Ledger) -> None:
    content = CampaignContent(subject="Hello", text="Dear all.").model_dump_json()
    campaign = await add_campaign(ledger, 30, status=CampaignStatus.DRAFT, content=content)
    tenant = replace(NO_TENANT, key=replace(NO_TENANT.key, project_id=DEFAULT_PROJECT))
    await prewarm(ledger, accept_nothing, 2)
    with compiled(ledger) as found:
        accepted = await actions.send(ledger, CampaignRef(tenant, campaign), SendIn(), SEND_SETTINGS)
    assert accepted.summary.status == CampaignStatus.QUEUED
    assert not [one for one in found if "timeline" not in one], "nothing but its timeline"


@pytest.mark.parametrize("pool_size", [1, 2, 8])
async def test_each_connection_is_prewarmed_and_a_small_pool_is_enough(postgresql_url: str, pool_size: int) -> None:
    ledger = Ledger(postgresql_url, pool_size=pool_size)
    executed: list[int] = []

    async def execute(ledger: Ledger) -> None:
        async with ledger.write() as connection:
            executed.append((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    await prewarm(ledger, execute, 4)
    await ledger.close()
    assert len(executed) == len(set(executed)) == min(4, pool_size)


async def test_a_database_that_is_away_does_not_stop_the_service() -> None:
    away = Ledger(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nothing")
    try:
        with pytest.raises(ConnectionRefusedError):
            await SEND_NOTHING(away)
        await prewarm(away, SEND_NOTHING, 2)
    finally:
        await away.close()


async def test_a_database_that_does_not_answer_delays_the_service_for_a_bounded_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_cut_off = asyncio.Event()

    async def wait(_ledger: Ledger) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cut_off.set()

    monkeypatch.setattr("shared.ledger.prewarm.LONGEST_SECONDS", 0.01)
    await prewarm(ledger, wait, 2)
    assert was_cut_off.is_set()
