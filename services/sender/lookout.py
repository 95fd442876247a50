"""Looks twice a second at what is in hand: pause, cancel, rescue and deadlines take effect, leases are renewed, and
campaigns are told what only a sender knows."""

import asyncio
import time
from uuid import UUID

from sqlalchemy import update
from sqlmodel import col

from services.sender.db import claims
from services.sender.hand import Hand
from services.sender.in_hand import InHand
from services.sender.smtp.engine import Engine
from shared import logs
from shared.ledger import timeline
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.models import LONGEST_REPLY, Campaign
from shared.ledger.states import CampaignStatus
from shared.settings import SenderSettings

RELAY_PATIENCE_SECONDS = 30.0
"""A batch is given back when no relay could be used for so long: another sender may have one that can."""

log = logs.get()


class Lookout:
    """One for a process."""

    def __init__(self, settings: SenderSettings, database: Ledger, engine: Engine, in_hand: InHand) -> None:
        self._settings = settings
        self._ledger = database
        self._engine = engine
        self._in_hand = in_hand
        self._told: dict[UUID, str | None] = {}
        self._blocked_since: float | None = None

    async def run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                await self.look()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("database.unreachable", error=in_a_line(error))
            self._measure()
            await asyncio.sleep(max(0.0, self._settings.look_seconds - (time.monotonic() - started)))

    async def look(self) -> None:
        """One look at everything in hand."""
        now = time.monotonic()
        hands = list(self._in_hand.hands)
        blocked = self._engine.blocked_reason()
        self._blocked_since = None if blocked is None else self._blocked_since or now
        for hand in hands:
            self._mind_deadlines(hand, now)
        if hands:
            seen = await claims.look(self._ledger, [hand.claim.batch_id for hand in hands])
            for hand in hands:
                self._heed(hand, seen.get(hand.claim.batch_id), now)
            self._in_hand.rouse()
            for hand in hands:
                if not hand.lost and now - hand.renewed_at > self._settings.renew_seconds:
                    await self._renew(hand)
        if hands or self._told:
            await self._tell_campaigns(hands, blocked)
        self._in_hand.rouse()

    def _heed(self, hand: Hand, seen: claims.Look | None, now: float) -> None:
        if hand not in self._in_hand.hands:
            return  # let go while we looked
        if seen is None or seen.generation != hand.claim.generation:
            self._in_hand.lose(hand)
        elif seen.campaign_status != CampaignStatus.SENDING:
            hand.stop = hand.stop or f"the campaign is {seen.campaign_status}"
        elif seen.overdue:
            hand.stop = hand.stop or "the campaign's deliver_by has passed"
        else:
            hand.looked_at = now
            return
        hand.changed.set()

    async def _renew(self, hand: Hand) -> None:
        before = time.monotonic()
        claim = hand.claim
        if await claims.renew(self._ledger, claim.batch_id, claim.generation, self._settings.lease_seconds):
            hand.renewed_at = before
        elif hand in self._in_hand.hands:
            self._in_hand.lose(hand)

    def _mind_deadlines(self, hand: Hand, now: float) -> None:
        """Past the soft limit, or when no relay can be used for long, no email starts; past the hard one those in
        flight are aborted. Either is recorded, the rest is given back, and the campaign's timeline tells why."""
        settings, age = self._settings, now - hand.claimed_at
        if age > settings.batch_soft_seconds and not hand.stop:
            hand.stop = hand.yielded = f"it was in hand for {settings.batch_soft_seconds:g} s"
            hand.changed.set()
        if self._blocked_since is not None and now - self._blocked_since > RELAY_PATIENCE_SECONDS and not hand.stop:
            hand.stop = hand.yielded = f"no relay could be used for {RELAY_PATIENCE_SECONDS:g} s"
            hand.changed.set()
        if age > settings.batch_hard_seconds and hand.in_flight:
            why = f"{len(hand.in_flight)} emails in flight were aborted after {settings.batch_hard_seconds:g} s"
            hand.yielded = why
            log.warning(
                "batch.aborted",
                campaign_id=str(hand.claim.campaign_id),
                batch_id=hand.claim.batch_id,
                generation=hand.claim.generation,
                emails=len(hand.in_flight),
            )
            self._engine.abort(frozenset(hand.in_flight), "its batch was in hand for too long")

    async def _tell_campaigns(self, hands: list[Hand], blocked: str | None) -> None:
        for hand in hands:
            campaign_id = hand.claim.campaign_id
            if blocked is None and not hand.done and not self._told.get(campaign_id):
                continue  # not blocked as far as we know, but nothing proves it yet
            if self._told.get(campaign_id, "nothing yet") != blocked:
                await self._tell_blocked(campaign_id, blocked)
                self._told[campaign_id] = blocked
        for campaign_id in self._told.keys() - {hand.claim.campaign_id for hand in self._in_hand.hands}:
            if self._told[campaign_id] and blocked is not None:
                continue  # we said so: we take it back when a relay has answered, batch or not
            if self._told[campaign_id]:
                await self._tell_blocked(campaign_id, None)
            del self._told[campaign_id]

    async def _tell_blocked(self, campaign_id: UUID, reason: str | None) -> None:
        differs = col(Campaign.blocked_by).is_(None) if reason else col(Campaign.blocked_by).is_not(None)
        async with self._ledger.write() as connection:
            changed = await connection.execute(
                update(Campaign)
                .where(col(Campaign.id) == campaign_id, differs)
                .values(blocked_by=reason and reason[:LONGEST_REPLY])
            )
            if changed.rowcount and reason:
                await timeline.record(connection, campaign_id, "blocked", f"No relay can be used: {reason}")
            elif changed.rowcount:
                await timeline.record(connection, campaign_id, "unblocked", "A relay can be used again")

    def _measure(self) -> None:
        metrics, hands, now = self._in_hand.metrics, self._in_hand.hands, time.monotonic()
        metrics.lease_age.set(max((now - hand.renewed_at for hand in hands), default=0.0))
        metrics.progress_age.set(max((now - hand.last_progress for hand in hands), default=0.0))
        for relay in self._engine.status():
            metrics.connections.labels(relay.name, "open").set(relay.connections)
            metrics.connections.labels(relay.name, "busy").set(relay.in_flight)
            metrics.relay_resting.labels(relay.name).set(relay.state == "resting")
