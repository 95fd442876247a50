"""What reads one campaign's recipients in order reads no others, though many campaigns lie before it in the table."""

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.usecases import recipients, replies
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.recipients import Wanted
from services.api.usecases.tenant import Tenant
from shared.ledger import breakers, campaigns
from shared.ledger.database import Ledger
from shared.ledger.forgetting import deletion
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.states import RecipientStatus
from tests.support.ledger import add_campaign

EARLIER, OWN, BATCH = 20_000, 30_000, 500
"""Most recipients are the campaign's own: PostgreSQL then hopes to meet one soon in the order of all ids."""

Read = Callable[[AsyncConnection, CampaignRef], Awaitable[object]]
ANY = Wanted(None, 0, 50)
EXPORTED = Wanted(None, 0, 50, data_bytes=1_000_000)
FAILED = Wanted(RecipientStatus.FAILED, 0, 50)
PENDING = Wanted(RecipientStatus.PENDING, 0, 50)
BOUNCED = Wanted(None, 0, 50, reported="bounced")

READS: dict[str, Read] = {
    "the first": recipients.first,
    "all": lambda connection, campaign: recipients.read(connection, campaign, ANY),
    "exported": lambda connection, campaign: recipients.read(connection, campaign, EXPORTED),
    "failed": lambda connection, campaign: recipients.read(connection, campaign, FAILED),
    "pending": lambda connection, campaign: recipients.read(connection, campaign, PENDING),
    "bounced": lambda connection, campaign: recipients.read(connection, campaign, BOUNCED),
    "replies": lambda connection, campaign: replies.by_reply(connection, campaign.id, RecipientStatus.FAILED, 600),
    "split": lambda connection, campaign: campaigns.next_range(connection, campaign.id, 0, BATCH),
    "domains": lambda connection, campaign: breakers._count_domains(connection, campaign.id),
    "deletion": lambda connection, campaign: deletion._recipients(connection, campaign.id, 0, 100),
}


async def one_behind_others(ledger: Ledger) -> CampaignRef:
    await add_campaign(ledger, EARLIER, status="finished")
    own = await add_campaign(ledger, OWN, status="sending")
    key = own.hex if ledger.is_sqlite else str(own)
    async with ledger.write() as connection:
        await connection.execute(
            text(f"UPDATE recipient SET status = 'failed' WHERE campaign_id = '{key}' AND id % 50 = 0")
        )
        await connection.execute(
            text(
                "INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, failed, pending)"
                f" SELECT campaign_id, min(id), max(id), {BATCH}, 'waiting', 0, 10, 490 FROM recipient"
                f" WHERE campaign_id = '{key}' AND id <= {EARLIER + OWN // 2} GROUP BY campaign_id, (id - 1) / {BATCH}"
            )
        )
        await connection.execute(text(f"UPDATE campaign SET cursor = {EARLIER + OWN // 2} WHERE id = '{key}'"))
        await connection.execute(text("ANALYZE"))
    return CampaignRef(cast(Tenant, SimpleNamespace(project_id=DEFAULT_PROJECT)), own)


def rows_read(plan: dict[str, Any]) -> int:
    """Rows of recipients that a plan of EXPLAIN ANALYZE looked at, those it then left out included."""
    found = sum(rows_read(child) for child in plan.get("Plans", []))
    if plan.get("Relation Name") == "recipient" or plan["Node Type"] == "Bitmap Index Scan":
        times = plan["Actual Loops"]
        found += times * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    return int(found)


async def test_reading_one_campaign_reads_no_other(ledger: Ledger) -> None:
    """The statements are those that are really executed, recorded at the driver."""
    campaign = await one_behind_others(ledger)
    async with ledger.engine.connect() as connection, connection.begin() as transaction:
        for name, read in READS.items():
            await check_plans(ledger, connection, campaign, name, read)
        await transaction.rollback()


async def test_a_read_that_is_often_repeated_reads_no_more(postgresql_url: str) -> None:
    """PostgreSQL plans a prepared statement that was executed five times once more, without looking at its values."""
    ledger = Ledger(postgresql_url)
    try:
        campaign = await one_behind_others(ledger)
        async with ledger.engine.connect() as connection, connection.begin() as transaction:
            await connection.execute(text("SET LOCAL plan_cache_mode = 'force_generic_plan'"))
            for name, read in READS.items():
                before = await connection.scalar(text(FETCHED))
                await read(connection, campaign)
                fetched = await connection.scalar(text(FETCHED)) - before
                assert fetched <= most_rows(name), (name, fetched)
            await transaction.rollback()
    finally:
        await ledger.close()


FETCHED = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'recipient'"


def most_rows(name: str) -> int:
    return {"domains": OWN, "replies": OWN // 2 + BATCH}.get(name, 20 * BATCH)


async def check_plans(
    ledger: Ledger, connection: AsyncConnection, campaign: CampaignRef, name: str, read: Read
) -> None:
    seen: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "recipient" in statement and statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(ledger.engine.sync_engine, "before_cursor_execute", keep)
    await read(connection, campaign)
    event.remove(ledger.engine.sync_engine, "before_cursor_execute", keep)
    assert seen, name
    for statement, parameters in seen:
        if ledger.is_sqlite:
            explained = await connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
            details: list[Any] = [row[-1] for row in explained]
            of_table = [detail for detail in details if " recipient" in detail]
            assert all("campaign_id=?" in detail or "rowid=?" in detail for detail in of_table), (name, of_table)
        else:
            explained = await connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
            (answer,) = explained.one()
            plan = answer if isinstance(answer, list) else json.loads(answer)
            assert rows_read(plan[0]["Plan"]) <= most_rows(name), (name, statement)


async def test_a_split_begins_with_the_campaigns_own_first(ledger: Ledger) -> None:
    campaign = await one_behind_others(ledger)
    async with ledger.write() as connection:
        cut = await campaigns.next_range(connection, campaign.id, 0, BATCH)
        last = await campaigns.next_range(connection, campaign.id, EARLIER + OWN - 10, BATCH, below=EARLIER + OWN)
        none = await campaigns.next_range(connection, UUID(int=1), 0, BATCH)
    assert none is None
    assert cut == campaigns.Range(EARLIER + 1, EARLIER + BATCH, BATCH)
    assert last == campaigns.Range(EARLIER + OWN - 9, EARLIER + OWN - 1, 9)
