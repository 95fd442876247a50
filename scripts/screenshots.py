"""The pictures of the page in docs/images/: made-up campaigns, the real API and RabbitMQ, headless Chromium.

`python -m scripts.screenshots` renews them all; needs Debian's chromium and rabbitmq-server.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from playwright.async_api import Browser, async_playwright
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from bench.campaign import private_broker
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from cli.output import say, step
from shared import topology
from shared.content import CampaignContent
from shared.ledger import history, instances, migrate
from shared.ledger.counts import STATUSES
from shared.ledger.database import Ledger, clock
from shared.ledger.history import Point
from shared.ledger.keys import create_key
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, ProgressPoint, Recipient, ServiceInstance, Timeline
from shared.sign_in import make_link
from shared.signing import Use, derived_key
from tests.support.browser import CHROMIUM, LAUNCH_ARGUMENTS
from tests.support.processes import ServiceProcess

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SECRET = "a-made-up-key-that-signs-only-for-pictures"
SIZE = {"width": 1180, "height": 800}
BATCH = 500
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

REPLIES = (
    (14, 550, "5.1.1", "<{email}>: Recipient address rejected: User unknown in virtual mailbox table"),
    (6, 552, "5.2.2", "The email account that you tried to reach is over quota"),
    (3, 550, "5.7.1", "Message rejected due to local policy, see https://postmaster.example/{id}"),
    (2, 550, "5.1.2", "Domain of {email} does not resolve"),
)
NAMES = ("ann", "boris", "clara", "dmitri", "elena", "farid", "greta", "hugo", "irina", "jonas", "kira", "leo", "olga")
DOMAINS = ("example.com", "example.org", "mail.example.net")
QUEUES = {topology.CAMPAIGNS: (2, 0), topology.EMAIL: (3, 12), topology.DEFAULT: (2, 1), topology.HEARTBEATS: (1, 0)}
"""Consumers and tickets. Each consumer takes two, as a sender does."""


def main() -> None:
    say("The page in docs/images")
    with private_broker() as broker:
        asyncio.run(make_pictures(broker))


async def make_pictures(broker: PrivateBroker) -> None:
    work = Path(tempfile.mkdtemp(prefix="vashsender-pictures-"))
    url = f"sqlite+aiosqlite:///{work / 'ledger.db'}"
    await asyncio.to_thread(migrate.upgrade, url)
    ledger = Ledger(url, pool_size=2)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    settings = {
        "VASHSENDER_DATABASE_URL": url,
        "VASHSENDER_AMQP_URL": broker.amqp_url(SERVICES),
        "VASHSENDER_SECRET_KEY": SECRET,
        "VASHSENDER_VAR_DIR": str(work),
    }
    api = ServiceProcess("api", settings, port, work)
    try:
        with step("campaigns and API"):
            async with ledger.write() as connection:
                key = await create_key(connection, "marketing")
                campaign = await fill(connection)
            api.launch()
            await api.wait_health("/health/live", 200)
        IMAGES.mkdir(parents=True, exist_ok=True)
        await topology.declare(broker.amqp_url(ADMIN))
        async with busy_queues(broker.amqp_url(ADMIN)), async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
            for scheme in SCHEMES:
                async with ledger.read() as connection:
                    link = await make_link(connection, derived_key(SECRET.encode(), Use.SIGN_IN), key, address)
                await picture_all(browser, scheme, link, address, campaign, ledger)
            await browser.close()
    finally:
        api.kill()
        await ledger.close()
        shutil.rmtree(work, ignore_errors=True)


@asynccontextmanager
async def busy_queues(url: str) -> AsyncIterator[None]:
    """Queues with consumers, of which the busy ones have tickets that wait and tickets that they work on."""

    async def keep(_message: AbstractIncomingMessage) -> None:
        return

    async with await aio_pika.connect(url) as connection:
        for name, (consumers, tickets) in QUEUES.items():
            for _ in range(consumers):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=2)
                queue = await channel.get_queue(name, ensure=False)
                await queue.consume(keep)
            for _ in range(tickets):
                await channel.default_exchange.publish(aio_pika.Message(b"{}"), name)
        yield


async def picture_all(
    browser: Browser, scheme: Literal["light", "dark"], link: str, address: str, campaign: UUID, ledger: Ledger
) -> None:
    """One picture of each page in one colour scheme."""
    context = await browser.new_context(viewport=SIZE, color_scheme=scheme, timezone_id="UTC", locale="en-GB")  # type: ignore[arg-type]
    page = await context.new_page()
    await page.goto(link)
    await page.wait_for_url(f"{address}/")
    for name, path in (
        ("campaigns", "/"),
        ("campaign", f"/campaigns/{campaign}"),
        ("failures", f"/campaigns/{campaign}/failures"),
        ("services", "/services"),
    ):
        with step(f"{name}-{scheme}"):
            async with ledger.write() as connection:
                await move_to_now(connection, campaign)
                await add_services(connection, campaign)
            await page.goto(f"{address}{path}")
            await page.wait_for_timeout(900)  # colours and widths no longer change
            await page.screenshot(path=IMAGES / f"{name}-{scheme}.png", full_page=True)
    await context.close()


async def fill(connection: AsyncConnection) -> UUID:
    """Inserts made-up campaigns. Returns the running one."""
    now = await clock(connection)
    day = 86_400.0
    plan: Sequence[tuple[str, str, float, int, Mapping[str, int]]] = (
        ("Welcome to the club", "finished", 21 * day, 1840, {"sent": 1832, "failed": 8}),
        (
            "Autumn catalogue, Russian list",
            "finished",
            16 * day,
            84_500,
            {"sent": 83_911, "failed": 402, "suppressed": 187},
        ),
        ("Invitation: open day in Hamburg", "cancelled", 9 * day, 12_000, {"sent": 4500, "cancelled": 7500}),
        (
            "Terms of service, change of 1 March",
            "finished",
            6 * day,
            215_000,
            {"sent": 213_870, "failed": 1093, "unknown": 37},
        ),
        ("Last call for the workshop", "expired", 3 * day, 900, {"sent": 610, "expired": 290}),
        ("Weekly digest 47", "finished", 1 * day, 38_400, {"sent": 38_266, "failed": 134}),
        ("Price list for partners", "paused", 7200.0, 6200, {"sent": 2480, "failed": 6, "pending": 3714}),
        ("Holiday greetings", "scheduled", 5400.0, 91_300, {"pending": 91_300}),
        ("Survey: how are we doing?", "draft", 3600.0, 0, {}),
    )
    for name, status, age, total, counts in plan:
        await add_campaign(connection, name, status, now - age, total, counts, seconds=total / 1500)
    return await add_sending(connection, now)


async def add_sending(connection: AsyncConnection, now: float) -> UUID:
    counts = {"sent": 29_480, "failed": 25, "deferred": 212, "suppressed": 91, "pending": 18_402}
    campaign = await add_campaign(
        connection, "Spring news", "sending", now - 74, 48_210, counts, seconds=None, started=now - 61
    )
    rates = [
        0.0 if 24 <= second < 31 else 540 + 70 * ((second * 7) % 5) / 4 - (180 if second < 3 else 0)
        for second in range(60)
    ]
    totals = [0.0, *accumulate(rates)]
    curve = [
        Point(now - 60 + second, round(total * counts["sent"] / totals[-1]), second * counts["failed"] // 60)
        for second, total in enumerate(totals)
    ]
    await history.note(connection, campaign, curve)
    for at, kind, text, times in (
        (-74, "created", "Created.", 1),
        (-70, "imported", "Imported 48210 recipients from CSV; left out 112 duplicates and 9 invalid.", 1),
        (-61, "requested", "Sending to 48210 recipients requested.", 1),
        (-61, "started", "Sending has begun", 1),
        (-37, "paused", "Paused by request.", 1),
        (-30, "resumed", "Resumed by request.", 1),
        (-19, "rescued", "A batch was taken back from sender-2: its lease had run out.", 2),
    ):
        await connection.execute(
            insert(Timeline).values(
                campaign_id=campaign, at=now + at, last_at=now + at + 7 * (times - 1), kind=kind, text=text, times=times
            )
        )
    await add_failures(connection, campaign)
    return campaign


async def add_services(connection: AsyncConnection, campaign: UUID) -> None:
    """Processes that are alive now: three busy senders, of which one cannot reach the second relay."""
    # The API on this machine has a row, too.
    await connection.execute(delete(ServiceInstance).where(~col(ServiceInstance.host).like("mail-%")))
    for service in ("api", "dispatcher", "feedback", "watchdog", "webhooks"):
        await instances.seen(
            connection, instance=f"{service}@mail-1", service=service, host="mail-1", uptime_seconds=86_400
        )
    refused = {"reason": "421 4.7.0 Too many messages, try again later", "resting_for_seconds": 45.0}
    for number, rate in ((1, 182.4), (2, 176.1), (3, 181.0)):
        batches = [
            {
                "batch_id": 2 * number + held,
                "campaign_id": str(campaign),
                "generation": 2,
                "done": 61 + 113 * held,
                "in_flight": 16,
                "idle_seconds": 0.2 * number,
                "age_seconds": 1.4 + 2.3 * held,
            }
            for held in (0, 1)
        ]
        first = {"name": "smtp.example.com:587", "state": "up", "connections": 24, "in_flight": 23, "reason": ""}
        second = {"name": "backup.example.net:587", "state": "up", "connections": 8, "in_flight": 7, "reason": ""}
        if number == 2:
            second |= {**refused, "state": "resting", "connections": 0, "in_flight": 0, "reason": "connection refused"}
        providers = [{"name": "outlook.com", **refused}] if number != 3 else []
        await instances.seen(
            connection,
            instance=f"sender-{number}@mail-{number}",
            service="sender",
            host=f"mail-{number}",
            pid=4710 + number,
            slot=f"sender-{number}",
            slots=2,
            uptime_seconds=7200.0 * number,
            detail={
                "emails_done": 412_800 // number,
                "emails_per_second": rate,
                "batches": batches,
                "relays": [
                    {**first, "connections_limit": 24, "resting_providers": providers},
                    {**second, "connections_limit": 8},
                ],
            },
        )


async def move_to_now(connection: AsyncConnection, campaign: UUID) -> None:
    """Shifts the made-up times so that they end now."""
    last = await connection.scalar(select(func.max(col(ProgressPoint.at))))
    late = await clock(connection) - float(last or 0.0)
    for column in (col(Campaign.created_at), col(Campaign.started_at), col(Campaign.deliver_by)):
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values({column: column + late}))
    for moment in (col(Timeline.at), col(Timeline.last_at)):
        await connection.execute(update(Timeline).values({moment: moment + late}))
    # In an order that overwrites no point.
    for at in (await history.curve(connection, campaign))[::-1]:
        await connection.execute(update(ProgressPoint).where(col(ProgressPoint.at) == at.at).values(at=at.at + late))


async def add_campaign(
    connection: AsyncConnection,
    name: str,
    status: str,
    created: float,
    total: int,
    counts: Mapping[str, int],
    *,
    seconds: float | None,
    started: float | None = None,
) -> UUID:
    """A campaign with its batches; recipients only if some failed while it is sent."""
    campaign = UUID(int=uuid7().int)
    has_begun = status not in ("draft", "scheduled")
    started = started or (created + 120 if has_begun else None)
    closed = status in ("finished", "cancelled", "expired")
    await connection.execute(
        insert(Campaign).values(
            id=campaign,
            project_id=DEFAULT_PROJECT,
            name=name,
            from_email="news@example.com",
            from_name="Example News",
            envelope_from="bounces@example.com",
            content=CampaignContent(subject=name, text="Hello.").model_dump_json(),
            status=status,
            delivery="at_least_once",
            total=total,
            created_at=created,
            started_at=started,
            finished_at=started + (seconds or 0.0) if closed and started else None,
            scheduled_at=created + 86_400 if status == "scheduled" else None,
            deliver_by=created + 3 * 86_400 if has_begun else None,
        )
    )
    left = dict(counts)
    if has_begun:
        await add_batches(connection, campaign, total, left)
    return campaign


async def add_batches(connection: AsyncConnection, campaign: UUID, total: int, left: dict[str, int]) -> None:
    first = 1
    while first <= total:
        size = min(BATCH, total - first + 1)
        batch: dict[str, Any] = dict.fromkeys(STATUSES, 0)
        room = size
        # Rare statuses are spread over the batches.
        for status in sorted(left, key=lambda one: left[one]):
            part = min(left[status], room, max(1, left[status] * size // max(total - first + 1, 1) + 1))
            batch[status] += part
            left[status] -= part
            room -= part
        for status in left:
            part = min(left[status], room)
            batch[status] += part
            left[status] -= part
            room -= part
        await connection.execute(
            insert(Batch).values(
                campaign_id=campaign,
                first_id=first,
                last_id=first + size - 1,
                size=size,
                state="done" if batch["pending"] + batch["deferred"] == 0 else "waiting",
                due_at=0.0,
                **batch,
            )
        )
        first += size


async def add_failures(connection: AsyncConnection, campaign: UUID) -> None:
    """Rows of failed recipients, each in a batch that counts it."""
    found = await connection.execute(
        select(col(Batch.first_id), col(Batch.failed)).where(col(Batch.campaign_id) == campaign, col(Batch.failed) > 0)
    )
    places = [first + number for first, failed in found for number in range(failed)]
    kinds = [reply for reply in REPLIES for _ in range(reply[0])]
    for number, (place, (_, code, enhanced, reply)) in enumerate(zip(places, kinds, strict=False)):
        email = f"{NAMES[number % len(NAMES)]}.{number + 11}@{DOMAINS[number % len(DOMAINS)]}"
        await connection.execute(
            insert(Recipient).values(
                id=place,
                campaign_id=campaign,
                email=email,
                email_key=email,
                status="failed",
                attempts=1,
                smtp_code=code,
                enhanced_code=enhanced,
                reply=reply.format(email=email, id=f"b{number}f09c{number}"),
                relay="mx.example.net:25",
            )
        )


if __name__ == "__main__":
    main()
