"""The feedback service dies while reports come in. An account of its answers is kept apart from the ledger."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import func, select
from sqlmodel import col

from cli.local.ports import free_port
from shared.email_tokens import TokenMaker
from shared.ledger.models import Batch, Recipient
from shared.ledger.report_tables import Report
from shared.settings import FeedbackSettings, load
from tests.chaos.catalogue import fault
from tests.chaos.world import POLL_SECONDS, TIMEOUT_SECONDS, World
from tests.support.lmtp import Wire, a_bounce, greeted, with_bounce_domain

REPORTS = 300
CONNECTIONS = 8
KILLS = 3
BOUNCES = "bounces.example.test"
RECORDED = "250 2.0.0 recorded"


@dataclass
class _MailServer:
    """Brings each report again until it gets a 250, over several connections, as a mail server does."""

    port: int
    #: Of emails that bounced: token by recipient id.
    waiting: dict[int, str]
    #: Recipients whose report got its 250.
    acknowledged: set[int] = field(default_factory=set)
    #: Answers of `recorded` by recipient: a second one would say that it was counted twice.
    recorded: Counter[int] = field(default_factory=Counter)

    async def run(self) -> None:
        """Returns once every report has its 250."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._bring())

    async def _bring(self) -> None:
        wire: Wire | None = None
        while self.waiting:
            recipient_id, token = self.waiting.popitem()
            try:
                wire = wire or await greeted(self.port, seconds=TIMEOUT_SECONDS)
                answer = await wire.mail(f"bounce+{token}@{BOUNCES}", _report(token))
            except (ConnectionError, AssertionError):
                if wire is not None:
                    await wire.close()
                wire, answer = None, "no answer"
            if answer.startswith("250"):
                self.acknowledged.add(recipient_id)
                self.recorded[recipient_id] += answer == RECORDED
            else:
                self.waiting[recipient_id] = token
                await asyncio.sleep(POLL_SECONDS)
        if wire is not None:
            await wire.close()


def _report(token: str) -> bytes:
    """It suppresses no one: a suppressed recipient would miss the campaign's retries."""
    return a_bounce(token, "5.2.2", "552 5.2.2 over quota")


@fault("kill -9 of feedback while reports come in", recovers=False, extra_seconds=5)
async def kill_feedback(world: World) -> None:
    await with_bounce_domain(world.observer, "example.test", BOUNCES)
    port = free_port()
    feedback = world.system.launch("feedback", lmtp_port=str(port))
    await feedback.wait_ready()
    tokens = await _sent(world)
    server = _MailServer(port, dict(tokens))
    async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(server.run())
        for number in range(1, KILLS + 1):
            # Spread over the reports, each time at another moment of a transaction.
            while len(server.acknowledged) < number * REPORTS // (KILLS + 1):  # noqa: ASYNC110 - of other tasks
                await asyncio.sleep(world.random.uniform(0, 0.01))
            await asyncio.to_thread(feedback.kill)
            known = set(server.acknowledged)
            if lost := known - (await _in_ledger(world)).keys():
                world.problems.append(f"{len(lost)} reports had their 250 and are not in the ledger")
            feedback.launch()

    async def compare() -> None:
        rows = await _in_ledger(world)
        if rows != dict.fromkeys(tokens, 1):
            world.problems.append(f"of {len(tokens)} acknowledged reports {len(rows)} are in the ledger: {rows}"[:300])
        async with world.observer.read() as connection:
            bounced = await connection.scalar(
                select(func.sum(col(Batch.bounced))).where(col(Batch.campaign_id) == UUID(world.campaign))
            )
        if bounced != len(tokens):
            world.problems.append(f"the campaign counts {bounced} bounces of {len(tokens)}")
        if max(server.recorded.values()) > 1:
            world.problems.append("a report was recorded twice")

    world.before_judging.append(compare)


async def _sent(world: World) -> Mapping[int, str]:
    """Recipients whose email was sent, with their tokens."""
    settings = load(
        FeedbackSettings,
        database_url=world.system.database_url,
        amqp_url=world.system.services_url,
        var_dir=world.system.folder,
    )
    make = TokenMaker(settings.token_keys[0], UUID(world.campaign)).make
    sent = select(col(Recipient.id)).where(
        col(Recipient.campaign_id) == UUID(world.campaign), col(Recipient.status) == "sent"
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            async with world.observer.read() as connection:
                ids = (await connection.execute(sent.limit(REPORTS))).scalars().all()
            if len(ids) == REPORTS:
                return {number: make(number).mail for number in ids}
            await asyncio.sleep(POLL_SECONDS)


async def _in_ledger(world: World) -> Mapping[int, int]:
    """Verified bounces by recipient."""
    async with world.observer.read() as connection:
        found = await connection.execute(
            select(col(Report.recipient_id), func.count().label("bounces"))
            .where(col(Report.verified).is_(True), col(Report.kind) == "bounced")
            .group_by(col(Report.recipient_id))
        )
        return {row.recipient_id: row.bounces for row in found}
