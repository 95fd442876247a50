"""Is everything well? What is wrong now, and which campaigns stand still, why, and what a repair would do."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from cli import access, queues
from cli.settings import LocalSettings
from shared.errors import UnavailableError, VashSenderError
from shared.ledger import migrate
from shared.ledger.database import clock
from shared.ledger.models import Batch, Campaign, ProgressPoint, ServiceInstance
from shared.ledger.states import BatchState, CampaignStatus
from shared.topology import DEAD

LOST_SECONDS = 20.0
FIX_SECONDS = 600.0
WATCHED = (CampaignStatus.SCHEDULED, CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.STOPPING)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Hanging:
    """A campaign without progress. `fix` is what `--fix` would do about it."""

    campaign_id: UUID
    name: str
    status: str
    idle_seconds: float
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Health:
    findings: Sequence[Finding]
    hanging: Sequence[Hanging]

    @property
    def is_good(self) -> bool:
        return not self.findings and not self.hanging


async def look(config: LocalSettings, *, timeout_minutes: float) -> Health:
    """Looks at ledger and broker. Raises UnavailableError where the ledger has another schema: then nobody can tell."""
    findings = await _broker(config)
    if not access.has_database(config):
        raise _unknown_schema(None)
    try:
        async with access.ledger_of(config) as ledger, ledger.read() as connection:
            current = await migrate.current(connection)
            if current == migrate.head():
                now = await clock(connection)
                findings += await _processes(connection, now)
                return Health(findings, await _hanging(connection, now, timeout_minutes * 60))
    except UnavailableError as error:
        return Health([*findings, Finding(str(error), "start it, or correct VASHSENDER_DATABASE_URL")], ())
    raise _unknown_schema(current)


def _unknown_schema(current: str | None) -> UnavailableError:
    return UnavailableError(
        f"the schema is at {current or 'nothing'}, this version needs {migrate.head()}: run `vashsender db upgrade`"
    )


def fix() -> list[dict[str, Any]]:
    """One sweep by the watchdog's hand, which needs nothing but the database; returns what it did."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "services.watchdog", "--once", "--json"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=FIX_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise UnavailableError(f"the repair ended with {done.returncode}: {done.stderr.strip()}")
    entries: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return [entry for entry in entries if "summary" not in entry]


async def _broker(config: LocalSettings) -> list[Finding]:
    try:
        depths = await queues.depths(config.broker_admin_url)
    except VashSenderError as error:
        return [Finding(str(error), "start it; until then mail goes on slowly, found by the clock")]
    found = [
        Finding(f"queue {depth.name} is missing", "`vashsender topology declare`")
        for depth in depths
        if not depth.exists
    ]
    found += [
        Finding(f"nobody consumes {depth.name}", "`vashsender status` tells which service does not run")
        for depth in depths
        if depth.exists and depth.consumers == 0 and depth.name != DEAD
    ]
    dead = next(depth.messages for depth in depths if depth.name == DEAD)
    if dead:
        found.append(Finding(f"{dead} messages are dead", "`vashsender dead list` shows them; no mail depends on them"))
    return found


async def _processes(connection: AsyncConnection, now: float) -> list[Finding]:
    rows = (
        await connection.execute(
            select(
                col(ServiceInstance.id),
                col(ServiceInstance.service),
                col(ServiceInstance.slots),
                col(ServiceInstance.detail),
            ).where(col(ServiceInstance.seen_at) > now - LOST_SECONDS, col(ServiceInstance.draining).is_(False))
        )
    ).all()
    alive = {row.service for row in rows}
    found = [
        Finding(f"no {service} is heard of", "`vashsender start`, or `vashsender logs`")
        for service in ("api", "dispatcher", "watchdog")
        if service not in alive
    ]
    if not sum(row.slots for row in rows if row.service == "sender"):
        # Senders are heard of through the watchdog.
        also = "" if "watchdog" in alive else "; the watchdog, which would tell, is silent too"
        found.append(Finding(f"no sender is heard of{also}", "`vashsender start`, or `vashsender scale sender=2`"))
    found += [
        Finding(
            f"{row.id}: relay {relay['name']} rests: {relay['reason']}",
            "it is tried again by itself; `vashsender doctor` tries it now",
        )
        for row in rows
        for relay in orjson.loads(row.detail).get("relays", ())
        if relay["state"] == "resting"
    ]
    return found


async def _hanging(connection: AsyncConnection, now: float, timeout_seconds: float) -> list[Hanging]:
    campaigns = (
        await connection.execute(
            select(
                col(Campaign.id),
                col(Campaign.name),
                col(Campaign.status),
                col(Campaign.blocked_by),
                col(Campaign.created_at),
                col(Campaign.started_at),
                col(Campaign.scheduled_at),
            ).where(col(Campaign.status).in_([status.value for status in WATCHED]))
        )
    ).all()
    found = []
    for campaign in campaigns:
        if campaign.status == CampaignStatus.SCHEDULED and (campaign.scheduled_at or 0.0) > now - timeout_seconds:
            continue
        moved = await _moved_at(connection, campaign)
        if now - moved > timeout_seconds:
            reason, repair = await _why(connection, campaign, now)
            found.append(Hanging(campaign.id, campaign.name, campaign.status, now - moved, reason, repair))
    return found


async def _moved_at(connection: AsyncConnection, campaign: Any) -> float:
    """When something last happened: a start, a claim, a point of the curve, or a retry that is still to come."""
    point = await connection.execute(
        select(func.max(col(ProgressPoint.at))).where(col(ProgressPoint.campaign_id) == campaign.id)
    )
    claims = select(func.max(col(Batch.claimed_at)), func.max(col(Batch.due_at)))
    claimed_at, due_at = (await connection.execute(claims.where(col(Batch.campaign_id) == campaign.id))).one()
    moments = (campaign.started_at, campaign.scheduled_at, point.scalar_one(), claimed_at, due_at)
    return max((moment for moment in moments if moment is not None), default=campaign.created_at)


async def _why(connection: AsyncConnection, campaign: Any, now: float) -> tuple[str, str]:
    """Why a campaign hangs, and what a repair does about it."""
    rows = await connection.execute(
        select(col(Batch.state), func.count(), func.sum(case((col(Batch.lease_until) < now, 1), else_=0)))
        .where(col(Batch.campaign_id) == campaign.id)
        .group_by(col(Batch.state))
    )
    states = {state: (int(count), int(ended)) for state, count, ended in rows}
    sending, orphaned = states.get(BatchState.SENDING.value, (0, 0))
    if orphaned:
        return f"{orphaned} batches are held by a sender that is gone", "take them back"
    if campaign.blocked_by:
        return campaign.blocked_by, "nothing: it goes on when that is mended"
    if sending:
        return f"{sending} batches are held by a sender that does not move", "nothing yet: their leases are renewed"
    if BatchState.RELEASED.value in states:
        return f"no sender takes the {states[BatchState.RELEASED.value][0]} batches that wait", "release them again"
    if campaign.status == CampaignStatus.SENDING and BatchState.WAITING.value not in states:
        return "nothing is left to send, or rows are open that no batch covers", "cover them, or let it close"
    return "the dispatcher does not attend to it", "call the dispatcher"
