"""What is wrong now, which campaigns make no progress and why, and what a repair would do about it."""

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

FIX_SECONDS = 600.0
WATCHED = (CampaignStatus.SCHEDULED, CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.STOPPING)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and what to do about it."""

    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Hanging:
    """A campaign without progress."""

    campaign_id: UUID
    name: str
    status: str
    idle_seconds: float
    reason: str
    #: What `--fix` would do about it.
    fix: str


@dataclass(frozen=True, slots=True)
class Health:
    findings: Sequence[Finding]
    hanging: Sequence[Hanging]

    @property
    def is_good(self) -> bool:
        return not self.findings and not self.hanging


async def look(config: LocalSettings, *, timeout_minutes: float) -> Health:
    """Looks at ledger and broker. Raises UnavailableError if this version cannot read the ledger's schema."""
    findings = await _broker(config)
    if not access.has_database(config):
        raise _unknown_schema(None)
    try:
        async with access.ledger_of(config) as ledger, ledger.read() as connection:
            current = await migrate.current(connection)
            if current == migrate.head():
                now = await clock(connection)
                findings += await _processes(connection, now - config.instance_lost_seconds)
                return Health(findings, await _hanging(connection, now, timeout_minutes * 60))
    except UnavailableError as error:
        return Health([*findings, Finding(str(error), "start it, or correct VASHSENDER_DATABASE_URL")], ())
    raise _unknown_schema(current)


def _unknown_schema(current: str | None) -> UnavailableError:
    return UnavailableError(
        f"the schema is at {current or 'nothing'}, this version needs {migrate.head()}: run `vashsender db upgrade`"
    )


def fix() -> list[dict[str, Any]]:
    """Runs one sweep of the watchdog, which needs only the database, and returns what it did."""
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
        return [Finding(str(error), "start it; until then mail goes out, but slowly")]
    found = [
        Finding(f"queue {depth.name} is missing", "`vashsender topology declare`")
        for depth in depths
        if not depth.exists
    ]
    found += [
        Finding(f"queue {depth.name} has no consumer", "`vashsender status` shows which service does not run")
        for depth in depths
        if depth.exists and depth.consumers == 0 and depth.name != DEAD
    ]
    dead = next(depth.messages for depth in depths if depth.name == DEAD)
    if dead:
        found.append(Finding(f"{dead} messages are dead", "`vashsender dead list` shows them; no mail depends on them"))
    return found


async def _processes(connection: AsyncConnection, alive_since: float) -> list[Finding]:
    rows = (
        await connection.execute(
            select(
                col(ServiceInstance.id),
                col(ServiceInstance.service),
                col(ServiceInstance.slots),
                col(ServiceInstance.detail),
            ).where(col(ServiceInstance.seen_at) > alive_since, col(ServiceInstance.draining).is_(False))
        )
    ).all()
    alive = {row.service for row in rows}
    found = [
        Finding(f"no {service} is alive", "`vashsender start`, or `vashsender logs`")
        for service in ("api", "dispatcher", "watchdog")
        if service not in alive
    ]
    if not sum(row.slots for row in rows if row.service == "sender"):
        # The watchdog writes the senders' heartbeats into the ledger.
        also = "" if "watchdog" in alive else ", or the watchdog, which reports them, is missing"
        found.append(Finding(f"no sender is alive{also}", "`vashsender start`, or `vashsender scale sender=2`"))
    found += [
        Finding(
            f"{row.id}: relay {relay['name']} rests: {relay['reason']}",
            "senders try it again by themselves; `vashsender doctor` tries it now",
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
    """When something last happened: a start, a claim, progress, or a retry that is still to come."""
    point = await connection.execute(
        select(func.max(col(ProgressPoint.at))).where(col(ProgressPoint.campaign_id) == campaign.id)
    )
    claims = select(func.max(col(Batch.claimed_at)), func.max(col(Batch.due_at)))
    claimed_at, due_at = (await connection.execute(claims.where(col(Batch.campaign_id) == campaign.id))).one()
    moments = (campaign.started_at, campaign.scheduled_at, point.scalar_one(), claimed_at, due_at)
    return max((moment for moment in moments if moment is not None), default=campaign.created_at)


async def _why(connection: AsyncConnection, campaign: Any, now: float) -> tuple[str, str]:
    """Why a campaign makes no progress, and what a repair does about it."""
    rows = await connection.execute(
        select(col(Batch.state), func.count(), func.sum(case((col(Batch.lease_until) < now, 1), else_=0)))
        .where(col(Batch.campaign_id) == campaign.id)
        .group_by(col(Batch.state))
    )
    states = {state: (int(count), int(ended)) for state, count, ended in rows}
    sending, orphaned = states.get(BatchState.SENDING.value, (0, 0))
    if orphaned:
        return f"{orphaned} batches are held by a sender that is gone", "rescue them"
    if campaign.blocked_by:
        return campaign.blocked_by, "nothing: it continues once the cause is fixed"
    if sending:
        return f"{sending} batches are held by a sender without progress", "nothing yet: their leases are renewed"
    if BatchState.RELEASED.value in states:
        return f"no sender claims the {states[BatchState.RELEASED.value][0]} released batches", "release them again"
    if campaign.status == CampaignStatus.SENDING and BatchState.WAITING.value not in states:
        return "nothing is left to send, or no batch covers the open recipients", "close it, or make batches for them"
    return "the dispatcher does not work on it", "wake the dispatcher"
