"""Closing a campaign: only with proof, by comparing all recipients with the counts, that none is open."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.dispatcher.deadline import Deadline
from services.dispatcher.proof import Proof, bookmark, generations, prove
from shared import logs
from shared.events import CampaignFinished
from shared.faults.breakers import LIST_RESULTS
from shared.faults.judge import judge
from shared.ledger import bookmarks, breakers, campaigns, repair, rollups, timeline
from shared.ledger.batches import in_state
from shared.ledger.counts import STATUSES, Counts, counts
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import LONGEST_REPLY, Batch, Campaign
from shared.ledger.repair import Repair
from shared.ledger.states import LIVE, OPEN, CampaignStatus, RecipientStatus
from shared.relays.replies import Stage

TROUBLED = (RecipientStatus.FAILED, RecipientStatus.UNKNOWN)
"""With one of these, the proof tells the most frequent replies."""

REFUSALS_TOLD = 3
"""The most frequent refusals that a closed campaign's timeline names."""

SMALL = LIST_RESULTS - 1
"""Recipients of a campaign that closes together with others: the breaker of the list needs more results."""

_CLOSED: Mapping[str, Any] = {"finished_at": db_now(), "blocked_by": None, "reopen": None}
_LOCK_SMALL = campaigns.LockOfMany(
    campaigns.in_status(CampaignStatus.SENDING), col(Campaign.reopen).is_(None), col(Campaign.total) <= SMALL
)
_FINISH = campaigns.MoveOfMany(CampaignStatus.FINISHED, **_CLOSED)

log = logs.get()


async def close_small(ledger: Ledger, campaign_ids: Collection[UUID]) -> Sequence[CampaignFinished]:
    """Closes those of several small campaigns in which everything was sent, suppressed or expired and all rows agree,
    in one transaction, and returns the events to publish. The others need a job, which closes or repairs them."""
    async with ledger.write() as connection:
        locked = await _LOCK_SMALL.of(connection, campaign_ids)
        # In another statement: one that waited for the locks would not see what was committed meanwhile.
        are_spent = (col(Campaign.id).in_(locked.keys()), ~_has_live(), ~campaigns.has_uncut())
        spent = set((await connection.execute(select(col(Campaign.id)).where(*are_spent))).scalars())
        sound = await repair.sound(connection, spent)
        tripped = await breakers.tripped(connection, spent)
        closing = {
            campaign_id: in_words(CampaignStatus.FINISHED, said)
            for campaign_id, said in sound.items()
            if campaign_id not in tripped and not any(said[status] for status in (*OPEN, *TROUBLED))
        }
        if not closing:
            return []
        await _FINISH.of(connection, closing.keys())
        await timeline.record_all(connection, closing, CampaignStatus.FINISHED.value)
        await bookmarks.remove(connection, *map(bookmark, closing))
    for campaign_id in closing:
        log.info("campaign.closed", campaign_id=str(campaign_id), status="finished", **sound[campaign_id])
    return [CampaignFinished(campaign_id=campaign_id, status="finished") for campaign_id in closing]


async def close(
    ledger: Ledger, campaign_id: UUID, list_share: float, deadline: Deadline
) -> CampaignFinished | Sequence[Repair]:
    """Closes a campaign that looks spent, and returns the event to publish.

    If its rows disagree, repairs them instead and returns the repairs: the campaign goes on. An empty list means that
    it is not spent yet, that a breaker must pause it first (`list_share`: see `breakers.trouble`), or that the deadline
    has passed before all rows were compared."""
    async with ledger.read() as connection:
        if not await _is_spent(connection, campaign_id):
            return []
    proof = await prove(ledger, campaign_id, deadline)
    if not isinstance(proof, Proof):
        log.error("close.refused", campaign_id=str(campaign_id), repairs=[repair.text for repair in proof])
        return proof
    if not proof.is_complete:
        return []
    async with ledger.write() as connection:
        campaign = await campaigns.lock(connection, campaign_id)
        if campaign is None or not await _holds(connection, campaign_id, campaign.cursor, proof):
            return []
        if await rollups.renew(connection, campaign_id):
            log.error("rollup.wrong", campaign_id=str(campaign_id))
        said = await counts(connection, campaign_id)
        if any(said[status] for status in OPEN):
            return []
        if campaign.status == CampaignStatus.STOPPING:
            status = CampaignStatus(campaign.stop_as or CampaignStatus.CANCELLED)
        elif campaign.status == CampaignStatus.SENDING and campaign.reopen is None:
            if await breakers.trouble(connection, campaign_id, list_share) is not None:
                return []
            status = _outcome(said)
        else:
            return []
        refusals = _refusals(proof) if said[RecipientStatus.FAILED.value] else ""
        values = dict(_CLOSED)
        if (reason := _reason(status, said, refusals)) is not None:
            values["reason"] = reason[:LONGEST_REPLY]
        if not await campaigns.move(connection, campaign_id, status, **values):
            return []
        await timeline.record(connection, campaign_id, status.value, in_words(status, said) + refusals)
        await bookmarks.remove(connection, bookmark(campaign_id))
    log.info("campaign.closed", campaign_id=str(campaign_id), status=status.value, **said)
    return CampaignFinished(campaign_id=campaign_id, status=status.value)


async def _holds(connection: AsyncConnection, campaign_id: UUID, cursor: int, proof: Proof) -> bool:
    """Whether the proof still stands, while the campaign is locked: no batch was added or has changed hands since."""
    same = cursor == proof.cursor and await generations(connection, campaign_id) == proof.generations
    return same and await _is_spent(connection, campaign_id)


def in_words(status: CampaignStatus, said: Counts) -> str:
    """For example: "finished: 995 of 1000 sent, 5 failed"."""
    others = [f"{said[name]} {name}" for name in STATUSES if said[name] and name != RecipientStatus.SENT]
    return ", ".join([f"{status.value}: {said[RecipientStatus.SENT.value]} of {said['total']} sent", *others])


def _outcome(said: Counts) -> CampaignStatus:
    tried = said[RecipientStatus.FAILED.value] + said[RecipientStatus.UNKNOWN.value]
    return CampaignStatus.FAILED if tried and not said[RecipientStatus.SENT.value] else CampaignStatus.FINISHED


def _reason(status: CampaignStatus, said: Counts, refusals: str) -> str | None:
    if status == CampaignStatus.EXPIRED:
        return f"deliver_by passed before {said[RecipientStatus.EXPIRED.value]} recipients were reached"
    if status != CampaignStatus.FAILED:
        return None
    failed = said[RecipientStatus.FAILED.value]
    return (f"all {failed} failed" if failed == said["total"] else "nothing could be sent") + refusals


def _refusals(proof: Proof) -> str:
    """The most frequent codes of failed recipients, with their meaning, for the end of a sentence."""
    most = proof.refusals.most_common(REFUSALS_TOLD)
    told = ", ".join(f"{_in_short(code, enhanced)} ({number})" for (code, enhanced), number in most)
    return f"; most often: {told}"


def _in_short(code: int | None, enhanced: str | None) -> str:
    """For example: "550 5.1.1 no such mailbox"."""
    if not code:
        return f"{enhanced} without a reply" if enhanced else "without a reply"
    meaning = judge(Stage.RCPT, code, "", enhanced).why
    return " ".join(filter(None, (str(code), enhanced, meaning)))


def _has_live() -> ColumnElement[bool]:
    """A batch of `campaign` is live."""
    return exists().where(col(Batch.campaign_id) == col(Campaign.id), in_state(*LIVE))


async def _is_spent(connection: AsyncConnection, campaign_id: UUID) -> bool:
    """No batch is live, and every recipient is in a batch. Stays true while the campaign is locked."""
    left = await connection.scalar(
        select(or_(_has_live(), campaigns.has_uncut())).select_from(Campaign).where(col(Campaign.id) == campaign_id)
    )
    return not left
