"""What runs every second costs the same however much is finished: the plans of these statements on both databases."""

import json
from typing import Any

from sqlalchemy import text

from services.dispatcher.dispatcher import LAP_AT_ONCE
from shared.ledger import batches, campaigns
from shared.ledger.database import Ledger
from shared.ledger.repair import repair_next
from tests.support.ledger import FakeSender, add_campaign, statements_of
from tests.support.services import DispatcherRig, WatchdogRig, ledger_at, register_sender

FINISHED_BATCHES = 20_000
GROWING = ("batch", "recipient", "campaign", "timeline")
"""Tables that grow with finished work; the others stay small."""

NOT_GROWING = ("campaign_not_closed", "campaign_reopening", "batch_live", "batch_live_of")
"""Indexes of unfinished work, which may be read from end to end."""


async def grow(ledger: Ledger) -> None:
    """A large campaign that is half done, with many finished batches, and many closed campaigns."""
    campaign = await add_campaign(ledger, 2 * FINISHED_BATCHES, status="sending", started_at=0.0)
    other = await add_campaign(ledger, 100, status="paused")
    key = campaign.hex if ledger.is_sqlite else str(campaign)
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, sent)"
                " SELECT campaign_id, id, id, 1, 'done', 0, 1 FROM recipient"
                f" WHERE campaign_id = '{key}' AND id <= {FINISHED_BATCHES}"
            )
        )
        await connection.execute(text(f"UPDATE recipient SET status = 'sent' WHERE id <= {FINISHED_BATCHES}"))
        await connection.execute(text(f"UPDATE campaign SET cursor = {FINISHED_BATCHES} WHERE id = '{key}'"))
        columns = "project_id, name, from_email, envelope_from, content, delivery, total, created_at"
        numbers = (
            "(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000) SELECT n FROM n) AS n"
            if ledger.is_sqlite
            else "generate_series(1, 5000) AS n"
        )
        made_id = "lower(hex(randomblob(16)))" if ledger.is_sqlite else "gen_random_uuid()"
        await connection.execute(
            text(
                f"INSERT INTO campaign (id, status, {columns}) SELECT {made_id}, 'finished', {columns}"
                f" FROM campaign, {numbers} WHERE campaign.id = '{other.hex if ledger.is_sqlite else other}'"
            )
        )
        await connection.execute(
            text(
                "INSERT INTO timeline (campaign_id, at, last_at, kind, text)"
                " SELECT id, 0, 0, 'finished', '' FROM campaign WHERE status = 'finished'"
            )
        )
        await connection.execute(text("ANALYZE"))


def scans(ledger: Ledger, plan: list[Any]) -> list[str]:
    """The growing tables that a plan reads from end to end."""
    if ledger.is_sqlite:
        details = [str(row[3]) for row in plan]
        return [
            detail
            for detail in details
            if detail.startswith("SCAN ") and detail.split()[1] in GROWING and not detail.endswith(NOT_GROWING)
        ]
    found: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING:
            found.append(f"Seq Scan {node['Relation Name']} {node.get('Filter', '')}")
        for child in node.get("Plans", []):
            walk(child)

    parsed = plan[0][0] if not isinstance(plan[0][0], str) else json.loads(plan[0][0])
    walk(parsed[0]["Plan"])
    return found


async def test_no_hot_statement_reads_a_growing_table_from_end_to_end(ledger: Ledger) -> None:
    """The statements are those that rounds and looks really execute, recorded at the driver."""
    await grow(ledger)
    with statements_of(ledger) as executed:
        dispatcher, watchdog, sender = DispatcherRig.on(ledger), WatchdogRig.on(ledger), FakeSender(ledger)
        await register_sender(ledger, 2)
        await add_campaign(ledger, 200)
        await dispatcher.settle()
        held = await sender.claim(*(await sender.released())[0])
        assert held is not None
        await sender.finish(held)
        await dispatcher.settle()
        await sender.claim(*(await sender.released())[0])
        async with ledger.write() as connection:
            await connection.execute(
                text("UPDATE batch SET lease_until = 0, released_at = 0 WHERE state IN ('sending', 'released')")
            )
        await watchdog.watchdog.look()
    seen: dict[str, Any] = {}
    for statement, parameters in executed:
        if statement.startswith(("SELECT", "UPDATE", "WITH")):
            seen.setdefault(statement, parameters)
    ours = [
        statement
        for statement in seen
        if "lease_until = 0" not in statement and "SELECT id, generation" not in statement
    ]
    assert len(ours) > 15
    explain = "EXPLAIN QUERY PLAN " if ledger.is_sqlite else "EXPLAIN (FORMAT JSON) "
    bad: dict[str, list[str]] = {}
    async with ledger.read() as connection:
        for statement in ours:
            plan = (await connection.exec_driver_sql(explain + statement, seen[statement])).all()
            if found := scans(ledger, list(plan)):
                bad[statement] = found
    assert not bad, "\n\n".join(f"{found}: {statement}" for statement, found in bad.items())


async def test_the_next_batch_of_a_fresh_import_is_found_without_sorting_it(postgresql_url: str) -> None:
    """Right after an import PostgreSQL has no statistics of the new rows, expects a few, and would sort them all."""
    async with ledger_at(postgresql_url) as ledger:
        campaign = await add_campaign(ledger, 100_000)
        async with ledger.write() as connection:
            with statements_of(ledger) as statements:
                found = await campaigns.next_range(connection, campaign, 0, 500)
            statement, parameters = statements[-1]
            rows = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {statement}", parameters)
            plan = "\n".join(row[0] for row in rows)
            with statements_of(ledger) as statements:
                await batches.cut(connection, campaign, 0, batches=1, emails=500, rate=None)
            statement, parameters = statements[-1]
            rows = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plan += "\n".join(row[0] for row in rows)
        assert found == campaigns.Range(1, 500, 500)
        assert "Insert on batch" in plan, plan
        assert "Sort" not in plan, plan


async def test_a_round_reads_one_recipient_of_a_fresh_import(postgresql_url: str) -> None:
    """It only asks whether recipients are left, and must not read a million of them for that each time."""
    async with ledger_at(postgresql_url) as ledger:
        await add_campaign(ledger, 20_000, status="sending", started_at=0.0)
        await register_sender(ledger, 2)
        with statements_of(ledger) as executed:
            await DispatcherRig.on(ledger).round()
        [(statement, parameters)] = [(words, values) for words, values in executed if " AS uncut" in words]
        assert await recipients_read(ledger, statement, parameters) == 1


async def test_the_proof_reads_each_recipient_of_a_fresh_import_once(postgresql_url: str) -> None:
    """Without statistics of the table, in which another campaign is larger."""
    async with ledger_at(postgresql_url) as ledger:
        await add_campaign(ledger, 20_000)
        campaign = await add_campaign(ledger, 5_000, status="sending", started_at=0.0)
        async with ledger.write() as connection:
            cuts = await batches.cut(connection, campaign, 0, batches=10, emails=500, rate=None)
        with statements_of(ledger) as executed:
            step = await repair_next(ledger, campaign, 0, cuts[-1].last_id, 100)
        assert (step.batches, step.repairs) == (10, [])
        read = [
            await recipients_read(ledger, statement, parameters)
            for statement, parameters in executed
            if "FROM recipient" in statement or "JOIN recipient" in statement
        ]
        assert sum(read) == 5_000, read


async def recipients_read(ledger: Ledger, statement: str, parameters: Any) -> int:
    """How many rows of recipients PostgreSQL reads for a statement."""
    async with ledger.read() as connection:
        found = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        plan = found.scalar_one()
    nodes = [(plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]]
    read = 0
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "recipient":
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += rows * node["Actual Loops"]
    return read


async def test_an_idle_round_reads_few_rows_of_postgresql_however_many_campaigns_wait(postgresql_url: str) -> None:
    """An index answers each condition: none is a filter over all that are open."""
    async with ledger_at(postgresql_url) as ledger:
        await wait_for_a_retry(ledger, 2000)
        dispatcher = DispatcherRig.on(ledger)
        for _ in range(4):
            await dispatcher.round()
        with statements_of(ledger) as seen:
            await dispatcher.round()
        assert seen
        async with ledger.read() as connection:
            for statement, parameters in dict(seen).items():
                explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + statement
                plan = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
                [top] = json.loads(plan) if isinstance(plan, str) else plan
                assert most_rows(top["Plan"]) <= 2 * LAP_AT_ONCE, f"{statement}\n{json.dumps(top, indent=1)}"


async def wait_for_a_retry(ledger: Ledger, campaigns: int) -> None:
    """Campaigns of one recipient that was deferred."""
    first = await add_campaign(ledger, 1, status="sending", started_at=0.0, cursor=1)
    columns = (
        "project_id, status, name, from_email, envelope_from, content, delivery, total, cursor, created_at, deliver_by"
    )
    async with ledger.write() as connection:
        await connection.execute(
            text(
                f"INSERT INTO campaign (id, {columns}) SELECT gen_random_uuid(), {columns} FROM campaign,"
                f" generate_series(2, {campaigns}) WHERE campaign.id = '{first}'"
            )
        )
        await connection.execute(
            text(
                "INSERT INTO batch (campaign_id, first_id, last_id, size, state, due_at, deferred)"
                " SELECT id, 1, 1, 1, 'waiting', 1e10, 1 FROM campaign"
            )
        )
        await connection.execute(text("ANALYZE"))


def most_rows(node: dict[str, Any]) -> int:
    """The rows that one part of a plan reads, at most."""
    read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return max([int(read * node["Actual Loops"]), *map(most_rows, node.get("Plans", []))])
