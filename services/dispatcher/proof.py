"""The proof that a campaign may close: every recipient is compared with the counts of its batch, and none is open.

The comparison goes in short steps, and a bookmark says how far it has come: a job that yields or is killed continues
there, in any dispatcher. A proof stands for one sum of the generations of all batches. If a batch has changed hands
since it began, it starts again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline, Steps
from shared.ledger import bookmarks
from shared.ledger.database import Ledger
from shared.ledger.models import Batch, Campaign, Recipient
from shared.ledger.repair import Repair, Step, repair_next
from shared.ledger.states import RecipientStatus

FIRST_BATCHES, MOST_BATCHES = 10, 100
"""Batches compared in the first step, and in later ones."""

REFUSALS_KEPT = 100
"""Codes of failed recipients that are counted on; the rarest are dropped beyond."""

Code = tuple[int | None, str | None]
"""The SMTP code and the enhanced code of a failed recipient, as far as it has them."""


@dataclass(slots=True)
class Proof:
    """How far the rows of a campaign have been compared."""

    cursor: int  # of the campaign: the last recipient id to compare
    generations: int  # the sum over its batches when the proof began
    position: int = 0  # the last recipient id compared
    refusals: Counter[Code] = field(default_factory=Counter)  # failed recipients by code, so far

    @property
    def is_complete(self) -> bool:
        return self.position >= self.cursor

    @classmethod
    async def begin(cls, connection: AsyncConnection, campaign_id: UUID) -> Self:
        """Continues at the bookmark, if the batches are still those of then."""
        cursor = await connection.scalar(select(col(Campaign.cursor)).where(col(Campaign.id) == campaign_id))
        proof = cls(cursor or 0, await generations(connection, campaign_id))
        found = await bookmarks.read(connection, bookmark(campaign_id))
        if (found.get("cursor"), found.get("generations")) == (proof.cursor, proof.generations):
            proof.position = found["position"]
            proof.refusals.update({(code, enhanced): times for code, enhanced, times in found["refusals"]})
        return proof

    async def keep(self, connection: AsyncConnection, campaign_id: UUID) -> None:
        refusals = [(code, enhanced, times) for (code, enhanced), times in self.refusals.most_common(REFUSALS_KEPT)]
        value = {"cursor": self.cursor, "generations": self.generations, "position": self.position}
        await bookmarks.write(connection, bookmark(campaign_id), {**value, "refusals": refusals})


async def prove(ledger: Ledger, campaign_id: UUID, deadline: Deadline) -> Proof | Sequence[Repair]:
    """Compares the rows of a campaign until all are, or the deadline has passed: then the proof is incomplete.

    If they disagree, repairs them and returns the repairs instead."""
    async with ledger.read() as connection:
        proof = await Proof.begin(connection, campaign_id)
    steps = Steps(FIRST_BATCHES, MOST_BATCHES)
    while not proof.is_complete:
        after = proof.position

        async def compare(most_batches: int, after: int = after) -> tuple[Step, Counter[Code]]:
            step = await repair_next(ledger, campaign_id, after, proof.cursor, most_batches)
            async with ledger.read() as connection:
                return step, await _refusals(connection, campaign_id, after, step.until)

        step, refusals = await steps.run(compare)
        if step.repairs:
            return step.repairs
        proof.position = step.until
        proof.refusals.update(refusals)
        if not proof.is_complete:
            async with ledger.write() as connection:
                await proof.keep(connection, campaign_id)
            if deadline.has_passed():
                break
            await deadline.pause()
    return proof


def bookmark(campaign_id: UUID) -> str:
    return f"close:{campaign_id}"


async def generations(connection: AsyncConnection, campaign_id: UUID) -> int:
    """The sum of the generations of all batches of a campaign, which grows whenever one changes hands."""
    found = await connection.scalar(
        select(func.sum(col(Batch.generation))).where(col(Batch.campaign_id) == campaign_id)
    )
    return int(found or 0)


async def _refusals(connection: AsyncConnection, campaign_id: UUID, after: int, until: int) -> Counter[Code]:
    """Failed recipients by code, in the batches between two recipient ids that have some."""
    having = (
        select(col(Batch.first_id), col(Batch.last_id))
        .where(
            col(Batch.campaign_id) == campaign_id,
            col(Batch.first_id) > after,
            col(Batch.first_id) <= until,
            col(Batch.failed) > 0,
        )
        .subquery()
    )
    found = await connection.execute(
        select(col(Recipient.smtp_code), col(Recipient.enhanced_code), func.count())
        .join(having, col(Recipient.id).between(having.c.first_id, having.c.last_id))
        .where(col(Recipient.campaign_id) == campaign_id, col(Recipient.status) == RecipientStatus.FAILED.value)
        .group_by(col(Recipient.smtp_code), col(Recipient.enhanced_code))
    )
    return Counter({(code, enhanced): number for code, enhanced, number in found})
