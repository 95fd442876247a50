"""What a service executes as it starts changes nothing, and is what its first campaign needs, on both databases."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine.interfaces import CacheStats
from sqlmodel import SQLModel

from cli.local.ports import free_port
from services.dispatcher.prewarm import dispatch_nothing
from services.sender.db import campaigns, claims
from services.sender.db.prewarm import send_nothing
from services.sender.db.worklist import read_worklist
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.prewarm import prewarm
from shared.ledger.states import CampaignStatus
from tests.support.ledger import FakeSender, Held, add_campaign, campaign_row, statements_of
from tests.support.services import DispatcherRig, register_sender

OF_SERVICES = pytest.mark.parametrize("execute", [send_nothing, dispatch_nothing])


@contextmanager
def compiled(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that are compiled inside, because they had not been before."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        if context.cache_hit is CacheStats.CACHE_MISS:
            found.append(statement)

    for engine in ledger.engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
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
        await prewarm(ledger, execute)
    assert executed
    assert await everything(ledger) == before


async def test_a_sender_compiles_nothing_for_its_first_batch(ledger: Ledger) -> None:
    campaign = await add_campaign(ledger, 10)
    await register_sender(ledger, 2)
    await DispatcherRig.on(ledger, batch_size=10).settle()
    ((batch_id, generation),) = await FakeSender(ledger).released()
    await prewarm(ledger, send_nothing)
    with compiled(ledger) as found:
        claim = await claims.claim(ledger, batch_id, generation, "sender-1@test", 15.0)
        assert claim is not None
        await campaigns.read_content(ledger, campaign)
        assert len(await read_worklist(ledger, claim, DEFAULT_PROJECT, 0, 100)) == 10
        await claims.look(ledger, [batch_id], [(DEFAULT_PROJECT, "person-1@example.test")])
    assert not found
    await FakeSender(ledger).record(Held(batch_id, claim.generation, claim.first_id, claim.last_id))
    with compiled(ledger) as found:
        assert (await claims.let_go(ledger, claim)).state == "done"
    assert not found


async def test_a_dispatcher_compiles_little_for_its_first_campaign(ledger: Ledger) -> None:
    await register_sender(ledger, 2)
    dispatcher = DispatcherRig.on(ledger, batch_size=10)
    await dispatcher.settle()
    await prewarm(ledger, dispatch_nothing)
    await add_campaign(ledger, 30)
    with compiled(ledger) as found:
        await dispatcher.settle()
    assert len(await FakeSender(ledger).released()) == 3
    assert not [one for one in found if "FROM recipient" in one or "FROM batch" in one], "little more than its timeline"


async def test_a_database_that_is_away_does_not_stop_the_service() -> None:
    away = Ledger(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nothing")
    try:
        with pytest.raises(ConnectionRefusedError):
            await send_nothing(away)
        await prewarm(away, send_nothing)
    finally:
        await away.close()
