"""The look of a sender that holds many batches: it finds suppressions, and costs the same however many there are."""

from uuid import uuid4

from sqlalchemy import insert, text

from services.sender.db import claims
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import DEFAULT_PROJECT, Project, Suppression
from tests.support.ledger import statements_of
from tests.support.seeds import seed_campaign

SUPPRESSIONS = 20_000


async def suppress(ledger: Ledger, *keys: str, **columns: object) -> None:
    values = {"project_id": DEFAULT_PROJECT, "reason": "unsubscribed", "created_at": db_now(), **columns}
    async with ledger.write() as connection:
        for key in keys:
            await connection.execute(insert(Suppression).values(email=key, email_key=key, **values))


async def test_a_look_finds_the_addresses_that_are_suppressed_now(ledger: Ledger) -> None:
    other = uuid4()
    async with ledger.write() as connection:
        await connection.execute(insert(Project).values(id=other, name="other", created_at=db_now()))
    await suppress(ledger, "ann@example.test", "zoe@example.test")
    await suppress(ledger, "doubted@example.test", provisional=True)
    await suppress(ledger, "bob@example.test", project_id=other)
    seeded = await seed_campaign(ledger, 4, batch_size=2)
    asked = {
        DEFAULT_PROJECT: [f"{name}@example.test" for name in ("ann", "bob", "doubted", "eve")],
        other: ["ann@example.test", "bob@example.test"],
    }
    found, suppressed = await claims.look(ledger, [*seeded.batch_ids, 10**6], asked)
    assert suppressed == {DEFAULT_PROJECT: {"ann@example.test"}, other: {"bob@example.test"}}
    assert found.keys() == set(seeded.batch_ids)
    assert {(look.generation, look.campaign_status, look.overdue) for look in found.values()} == {(1, "sending", False)}


async def test_a_look_probes_an_index_for_each_email_that_starts_soon(ledger: Ledger) -> None:
    """66 full batches, and a project with many suppressions that has just imported them: no statistics yet."""
    seeded = await seed_campaign(ledger, 66, batch_size=1)
    numbers = (
        f"(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {SUPPRESSIONS}) SELECT n FROM n)"
        if ledger.is_sqlite
        else f"generate_series(1, {SUPPRESSIONS})"
    )
    project = DEFAULT_PROJECT.hex if ledger.is_sqlite else str(DEFAULT_PROJECT)
    async with ledger.write() as connection:
        await connection.execute(
            text(
                "INSERT INTO suppression (project_id, email, email_key, reason, created_at)"
                f" SELECT '{project}', n || '@example.test', n || '@example.test', 'manual', 0 FROM {numbers} AS n"
            )
        )
    asked = [f"{number}@example.test" for number in range(SUPPRESSIONS - 1000, SUPPRESSIONS + 1501)]
    with statements_of(ledger) as statements:
        _, suppressed = await claims.look(ledger, seeded.batch_ids, {DEFAULT_PROJECT: asked})
    assert len(suppressed[DEFAULT_PROJECT]) == 1001
    probes = [(statement, parameters) for statement, parameters in statements if "FROM suppression" in statement]
    assert len(probes) == 3, "1,000 addresses each, so that no statement outgrows what a database takes"
    explain = "EXPLAIN QUERY PLAN " if ledger.is_sqlite else "EXPLAIN "
    async with ledger.read() as connection:
        for statement, parameters in probes:
            plan = "\n".join(map(str, await connection.exec_driver_sql(explain + statement, parameters)))
            assert "suppression_once" in plan or "sqlite_autoindex_suppression" in plan, plan
            assert "email_key" in plan, plan
