"""Campaigns inserted straight into the ledger, a fake sender in plain SQL, and what must always be true of a ledger."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from uuid import UUID

from sqlalchemy import bindparam, event, func, insert, select, text
from sqlmodel import SQLModel, col
from uuid6 import uuid7

from shared.events import Event
from shared.ledger.counts import STATUSES, counts
from shared.ledger.database import Ledger, db_now
from shared.ledger.direct import DirectConnection
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient, Rollup, Timeline
from shared.ledger.rollups import SUMMED
from shared.ledger.states import FINAL, LIVE, OPEN

NOW = {
    True: "((julianday('now') - 2440587.5) * 86400.0)",
    False: "CAST(extract(epoch from clock_timestamp()) AS double precision)",
}


@contextmanager
def statements_of(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that the ledger executes inside, and its parameters."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    execute = DirectConnection.execute

    async def note_direct(self: DirectConnection, statement: str, *values: object, **how: Any) -> Sequence[Any] | None:
        executed.append((statement, values))
        return await execute(self, statement, *values, **how)

    for engine in ledger.engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        with patch.object(DirectConnection, "execute", note_direct):
            yield executed
    finally:
        for engine in ledger.engines:
            event.remove(engine, "before_cursor_execute", note)


class RecordedBus:
    """A bus that keeps what was published, and reports that the broker has it, or is `away`."""

    def __init__(self, *, away: bool = False) -> None:
        self.events: list[Event] = []
        self.away = away

    async def publish(self, event: Event) -> bool:
        self.events.append(event)
        return not self.away

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def add_campaign(ledger: Ledger, recipients: int, *, status: str = "queued", **values: Any) -> UUID:
    """Adds a campaign as the API leaves it after `send`. Moments are seconds from now."""
    campaign_id = values.pop("id", None) or uuid7()
    moments = {key: values.pop(key) for key in ("scheduled_at", "deliver_by", "started_at") if key in values}
    moments.setdefault("deliver_by", 3600.0)
    async with ledger.write() as connection:
        await connection.execute(
            insert(Campaign).values(
                id=campaign_id,
                project_id=DEFAULT_PROJECT,
                name="Test",
                from_email="shop@example.com",
                envelope_from="bounce@example.com",
                content=values.pop("content", "{}"),
                delivery=values.pop("delivery", "at_least_once"),
                status=status,
                total=recipients,
                created_at=db_now(),
                **{key: None if seconds is None else db_now() + seconds for key, seconds in moments.items()},
                **values,
            )
        )
    await add_recipients(ledger, campaign_id, recipients)
    return campaign_id


async def add_recipients(ledger: Ledger, campaign_id: UUID, number: int) -> None:
    """Adds recipients 1 to `number` in one statement."""
    series = (
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :number) SELECT {} FROM n"
        if ledger.is_sqlite
        else "SELECT {} FROM generate_series(1, :number) AS n"
    )
    values = ":campaign, 'r' || n || '@example.com', 'r' || n || '@example.com'"
    if number:
        async with ledger.write() as connection:
            await connection.execute(
                text("INSERT INTO recipient (campaign_id, email, email_key) " + series.format(values)),
                {"campaign": campaign_id.hex if ledger.is_sqlite else campaign_id, "number": number},
            )


@dataclass
class Held:
    """A batch that a fake sender holds."""

    id: int
    generation: int
    first_id: int
    last_id: int


@dataclass
class FakeSender:
    """Does in plain statements what a sender does, and counts what it sent."""

    ledger: Ledger
    owner: str = "sender-1@test"
    lease_seconds: float = 15.0
    sent: Counter[int] = field(default_factory=Counter)

    async def _run(self, sql: str, **values: Any) -> Sequence[Any]:
        async with self.ledger.write() as connection:
            result = await connection.execute(text(sql.replace("{now}", NOW[self.ledger.is_sqlite])), values)
            return result.all() if result.returns_rows else []

    async def released(self) -> list[tuple[int, int]]:
        rows = await self._run("SELECT id, generation FROM batch WHERE state = 'released' ORDER BY id")
        return [(row[0], row[1]) for row in rows]

    async def claim(self, batch_id: int, generation: int) -> Held | None:
        rows = await self._run(
            """UPDATE batch SET state = 'sending', generation = generation + 1, owner = :owner,
                lease_until = {now} + :lease, claimed_at = {now}
            WHERE id = :id AND generation = :generation AND state = 'released' AND EXISTS (SELECT 1 FROM campaign
                WHERE campaign.id = batch.campaign_id AND status = 'sending' AND deliver_by > {now})
            RETURNING id, generation, first_id, last_id""",
            id=batch_id,
            generation=generation,
            owner=self.owner,
            lease=self.lease_seconds,
        )
        return Held(*rows[0]) if rows else None

    async def record(self, held: Held, status: str = "sent", *, limit: int = 1_000_000, delay: float = 0.0) -> int:
        """Sends to open recipients of the batch and records them in one transaction that locks the batch first.

        Returns how many, or -1 if the batch is lost: then nothing is sent."""
        now = NOW[self.ledger.is_sqlite]
        async with self.ledger.write() as connection:
            locked = await connection.execute(
                text(
                    f"UPDATE batch SET lease_until = {now} + :lease WHERE id = :id AND generation = :generation"
                    " AND state = 'sending'"
                ),
                {"id": held.id, "generation": held.generation, "lease": self.lease_seconds},
            )
            if not locked.rowcount:
                return -1
            rows = (
                await connection.execute(
                    text(
                        "SELECT r.id, r.status FROM recipient r JOIN batch b ON b.campaign_id = r.campaign_id"
                        " WHERE b.id = :id AND r.id BETWEEN :first AND :last AND r.status IN ('pending', 'deferred')"
                        f" AND (r.next_attempt_at IS NULL OR r.next_attempt_at <= {now} + 15)"
                        " ORDER BY r.id LIMIT :limit"
                    ),
                    {"id": held.id, "first": held.first_id, "last": held.last_id, "limit": limit},
                )
            ).all()
            by_status: dict[str, list[int]] = {}
            for row in rows:
                by_status.setdefault(row.status, []).append(row.id)
            for was, ids in by_status.items():
                await connection.execute(
                    text(
                        "UPDATE recipient SET status = :status, attempts = attempts + 1,"
                        f" next_attempt_at = {now} + :delay WHERE id IN :ids"
                    ).bindparams(bindparam("ids", expanding=True)),
                    {"status": status, "delay": delay, "ids": ids},
                )
                for column, change in ((was, -len(ids)), (status, len(ids))):
                    await connection.execute(
                        text(f"UPDATE batch SET {column} = {column} + :change WHERE id = :id"),
                        {"change": change, "id": held.id},
                    )
                if status == "sent":
                    self.sent.update(ids)
        return len(rows)

    async def finish(self, held: Held, *, due_in: float = 0.0) -> bool:
        rows = await self._run(
            """UPDATE batch SET state = CASE WHEN pending + deferred = 0 THEN 'done' ELSE 'waiting' END,
                generation = generation + 1, owner = NULL, lease_until = NULL, released_at = NULL, due_at = {now} + :due
            WHERE id = :id AND generation = :generation AND state = 'sending' RETURNING id""",
            id=held.id,
            generation=held.generation,
            due=due_in,
        )
        return bool(rows)

    async def send_all_released(self) -> int:
        """Claims, sends and finishes all released batches; returns the number of emails."""
        emails = 0
        for ticket in await self.released():
            held = await self.claim(*ticket)
            if held is not None:
                emails += await self.record(held)
                await self.finish(held)
        return emails


def _all(model: type[SQLModel]) -> Any:
    """Every column of a table, as a row."""
    return model.__table__  # type: ignore[attr-defined]


async def campaign_row(ledger: Ledger, campaign_id: UUID) -> Any:
    async with ledger.read() as connection:
        return (await connection.execute(select(_all(Campaign)).where(col(Campaign.id) == campaign_id))).one()


async def batches_of(ledger: Ledger, campaign_id: UUID) -> Sequence[Any]:
    """The batches of a campaign, by range."""
    async with ledger.read() as connection:
        found = await connection.execute(
            select(_all(Batch)).where(col(Batch.campaign_id) == campaign_id).order_by(col(Batch.first_id))
        )
        return found.all()


async def timeline_of(ledger: Ledger, campaign_id: UUID) -> list[tuple[str, str]]:
    async with ledger.read() as connection:
        rows = await connection.execute(
            select(col(Timeline.kind), col(Timeline.text))
            .where(col(Timeline.campaign_id) == campaign_id)
            .order_by(col(Timeline.id))
        )
        return [(row[0], row[1]) for row in rows]


async def counts_by_status(ledger: Ledger, campaign_id: UUID) -> dict[str, int]:
    """The counts as clients see them, without zeros."""
    async with ledger.read() as connection:
        return {key: value for key, value in (await counts(connection, campaign_id)).items() if value}


async def assert_sound(ledger: Ledger) -> None:
    """Checks what must always be true of every campaign: counts, ranges, rollups, and that none closed too early."""
    async with ledger.read() as connection:
        campaigns = (await connection.execute(select(_all(Campaign)))).all()
        for campaign in campaigns:
            said = dict(await counts(connection, campaign.id))
            total = said.pop("total")
            said = {status: said[status] for status in STATUSES}
            assert sum(said.values()) == total, f"the counts of {campaign.id} do not add up to {total}: {said}"
            rows = await connection.execute(
                select(col(Recipient.status), func.count())
                .where(col(Recipient.campaign_id) == campaign.id)
                .group_by(col(Recipient.status))
            )
            assert dict.fromkeys(STATUSES, 0) | {row[0]: row[1] for row in rows} == said
            batches = (
                await connection.execute(
                    select(_all(Batch)).where(col(Batch.campaign_id) == campaign.id).order_by(col(Batch.first_id))
                )
            ).all()
            rolled_up = [batch for batch in batches if batch.rolled_up]
            assert not [batch for batch in rolled_up if batch.state in ("released", "sending")]
            kept = (
                await connection.execute(select(_all(Rollup)).where(col(Rollup.campaign_id) == campaign.id))
            ).first()
            for name in SUMMED:
                assert (getattr(kept, name) if kept else 0) == sum(getattr(batch, name) for batch in rolled_up), name
            last = 0
            for batch in batches:
                assert last < batch.first_id <= batch.last_id <= campaign.cursor
                assert batch.size == sum(getattr(batch, status) for status in STATUSES)
                last = batch.last_id
            beyond = await connection.scalar(
                select(func.count()).where(
                    col(Recipient.campaign_id) == campaign.id, col(Recipient.id) > campaign.cursor
                )
            )
            if campaign.status in FINAL:
                assert beyond == 0
                assert not [batch for batch in batches if batch.state in LIVE]
                assert not any(said[status] for status in OPEN)
