"""Retention in the API's processes: one that is killed while it deletes is continued by another."""

from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlmodel import col

from shared.ledger.counts import counts
from shared.ledger.database import Ledger
from shared.ledger.forgetting.run import ROWS_AT_ONCE, Forgetter, Rules
from shared.ledger.forgetting_tables import ForgottenCampaign
from shared.ledger.models import Bookmark, Recipient
from tests.conftest import ServiceFactory
from tests.support.ended import ended_campaign
from tests.support.waiting import until

ROWS = 30_000
NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.mark.more
async def test_a_killed_process_is_continued_by_another(
    tmp_path: Path, database_url: str, ledger: Ledger, service_process: ServiceFactory
) -> None:
    campaign = await ended_campaign(ledger, ROWS, days_ago=40, failed=100, batch_size=500)
    settings = {
        "VASHSENDER_DATABASE_URL": database_url,
        "VASHSENDER_AMQP_URL": NOWHERE,
        "VASHSENDER_VAR_DIR": str(tmp_path),
        "VASHSENDER_RETENTION_DAYS": "30",
        "VASHSENDER_RETENTION_STEADY_SECONDS": "0",
        "VASHSENDER_TRANSACTION_SECONDS": "10",
    }
    # Marked beforehand, so that the first tick of a process deletes.
    marking = Forgetter(ledger, "test", (), Rules(30, 0.0, 3600.0), lambda _: None)
    assert (await marking.run()).marked == 1
    async with ledger.write() as connection:
        await connection.execute(update(ForgottenCampaign).values(began_at=col(ForgottenCampaign.began_at) - 3600))

    async def deleted() -> int:
        async with ledger.read() as connection:
            return int(await connection.scalar(select(col(ForgottenCampaign.recipients))) or 0)

    first = service_process("api", settings, name="first")

    async def has_begun() -> bool:
        return await deleted() > 0

    await until(has_begun)
    first.kill()
    at_the_kill = await deleted()
    async with ledger.write() as connection:  # the lease runs out
        await connection.execute(update(Bookmark).values(value=func.replace(Bookmark.value, '"until":', '"was":')))
    second = service_process("api", settings, name="second")

    async def is_over() -> bool:
        async with ledger.read() as connection:
            return await connection.scalar(select(col(ForgottenCampaign.ended_at))) is not None

    await until(is_over, 60)
    assert await deleted() == ROWS
    async with ledger.read() as connection:
        left = await connection.scalar(select(func.count()).where(col(Recipient.campaign_id) == campaign))
        said = await counts(connection, campaign)
    assert (left, said["total"], said["sent"], said["failed"]) == (0, ROWS, ROWS - 100, 100)
    # The killed process may have sent one more commit, which the server executed later.
    by_second = await second.metric('vashsender_forgotten_rows_total{table="recipient"}')
    assert ROWS - at_the_kill - ROWS_AT_ONCE <= by_second <= ROWS - at_the_kill
