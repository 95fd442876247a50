"""What can be done with a campaign: send, test, pause, resume, cancel, retry-failed, resolve-unknown.

Each is one writing transaction: the campaign's row is locked, its status moves only from where it may, and the timeline
gets an entry. The event of the result only saves time: the dispatcher also finds the campaign in the ledger.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Row, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import CampaignSending, CampaignSummary, SendIn, SendWarningOut
from services.api.shapes.common import moment
from services.api.shapes.recipients import RecipientIn
from services.api.usecases import campaign_row, content, limits
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.campaigns import add_inline, unique
from services.api.usecases.errors import (
    DecisionNeededError,
    NoRecipientsError,
    NothingToDoError,
    Quota,
    ReopeningError,
    StillSendingError,
    invalid,
)
from services.api.usecases.quotas import take_test
from services.api.usecases.summaries import summary
from shared.events import CampaignRequested
from shared.faults.breakers import Breaker
from shared.ledger import breakers, campaigns, complaints, spread, timeline
from shared.ledger.batches import in_state
from shared.ledger.counts import counts
from shared.ledger.database import Ledger
from shared.ledger.models import Batch
from shared.ledger.states import FINAL, BatchState, CampaignStatus
from shared.relay_groups import RelayGroups

PAUSED_BY_REQUEST = "Paused by request."
_COPIED_TO_TEST = (
    "from_email",
    "from_name",
    "reply_to",
    "reply_to_name",
    "relay_group",
    "envelope_from",
    "delivery",
    "max_retries",
    "retry_delay_seconds",
    "priority",
    "emails_per_second",
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An action that will happen. Publish `event` once the transaction is committed."""

    action: str
    summary: CampaignSummary
    event: CampaignRequested
    quota: Quota | None = None  # what is left of the limit that it counts under


Settle = Callable[[AsyncConnection, Accepted], Awaitable[None]]
"""What the caller writes in the transaction of the effect itself: the answer under an Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when emails may be sent."""

    given: datetime | None
    default_seconds: float  # after the start, if no deadline is given

    def after(self, start: float) -> float:
        """The deadline in the ledger's seconds. Raises InvalidError if it is not after `start`."""
        if self.given is None:
            return start + self.default_seconds
        if self.given.timestamp() <= start:
            raise invalid("#/deliver_by", "must lie after the start; leave it out for the default")
        return self.given.timestamp()


@dataclass(frozen=True, slots=True)
class Reopening:
    """Which recipients are opened again, and what for."""

    action: str
    status: str  # of the recipients to open
    reopen: str  # what the dispatcher is to do with them: the value of `campaign.reopen`


RETRY_FAILED = Reopening("retry-failed", "failed", "failed")
RESOLVE_AS_SENT = Reopening("resolve-unknown", "unknown", "unknown_sent")
RESEND_UNKNOWN = Reopening("resolve-unknown", "unknown", "unknown_resend")


CheckDomains = Callable[[str, str], Awaitable[Sequence[SendWarningOut]]]
"""Finds what is wrong with the domains of From and of the envelope."""


class SendSettings(NamedTuple):
    """What a campaign is sent under, besides what its sender says."""

    #: By default a campaign must be delivered this long after its start.
    deliver_within_seconds: float
    groups: RelayGroups
    check_domains: CheckDomains


async def send(
    ledger: Ledger, campaign: CampaignRef, given: SendIn, settings: SendSettings, settle: Settle | None = None
) -> Accepted:
    """Sends a campaign now or at the given moment. Raises NotFoundError, InvalidError, ForeignDomainError and
    ConflictError."""
    row, texts = await campaign_row.find_with_texts(ledger, campaign)
    await content.require_sound(texts)
    domains = (address.rpartition("@")[2] for address in (row.from_email, row.envelope_from))
    of_domains = await settings.check_domains(*domains)
    async with ledger.write() as connection:
        row = await campaign_row.lock(connection, campaign)
        campaign_row.require_editable(row, "send")
        await campaign_row.require_no_import(connection, campaign.id, "send")
        await campaign_row.require_domains(connection, campaign, row)
        await campaign.tenant.require_open(connection)
        if row.total == 0:
            raise NoRecipientsError("Import recipients first, then send.")
        deadline = Deadline(given.deliver_by, settings.deliver_within_seconds)
        if given.scheduled_at is None:
            start = row.now
            deliver_by = deadline.after(start)
            await campaign_row.move(
                connection, row, CampaignStatus.QUEUED, "send", scheduled_at=None, deliver_by=deliver_by
            )
            await timeline.record(connection, campaign.id, "requested", f"Sending to {row.total} recipients requested.")
        else:
            start = given.scheduled_at.timestamp()
            deliver_by = await _schedule(connection, row, start, deadline)
        warnings = await limits.outlasting(
            connection, row, settings.groups.group_of(row.relay_group, row.from_email), start, deliver_by
        )
        for detail in warnings:
            await timeline.record(connection, campaign.id, "limited", detail)
        if of_domains:
            checks = ", ".join(warning.detail.partition(":")[0] for warning in of_domains)
            text = f"Sent with warnings about its domains: {checks}. The page Access shows each."
            await timeline.record(connection, campaign.id, "warned", text)
        shown = [SendWarningOut(pointer="#/deliver_by", detail=detail) for detail in warnings] + [*of_domains]
        accepted = _warning(await _accepted(connection, campaign, "send"), shown)
        if settle is not None:
            await settle(connection, accepted)
    return accepted


async def send_test(
    ledger: Ledger,
    campaign: CampaignRef,
    recipients: list[RecipientIn],
    deliver_within_seconds: float,
    settle: Settle | None = None,
) -> Accepted:
    """Creates a small campaign with the same message and sends it; the result is about that one. It counts under the
    limits of the campaign. Raises NotFoundError, InvalidError, ForeignDomainError and LimitReachedError."""
    _, texts = await campaign_row.find_with_texts(ledger, campaign)
    compiled = await content.compiled(texts)
    checked = unique(recipients, compiled)
    async with ledger.write() as connection:
        row = await campaign_row.lock(connection, campaign)
        await campaign_row.require_domains(connection, campaign, row)
        project = await campaign.tenant.require_open(connection)
        quota = await take_test(connection, project, campaign.tenant.limits)
        columns = {name: getattr(row, name) for name in _COPIED_TO_TEST} | {
            "name": f"Test: {row.name}"[:200],
            "content": "",
            "test_of": campaign.id,
            "deliver_by": row.now + deliver_within_seconds,
        }
        created = await campaigns.create(connection, CampaignStatus.QUEUED, project_id=campaign.project_id, **columns)
        await campaign_row.copy_content(connection, campaign.id, created)
        test = CampaignRef(campaign.tenant, created)
        await timeline.record(connection, test.id, "created", f"Test of campaign {campaign.id}.")
        if await add_inline(connection, test, checked, lines=len(recipients)) < len(checked):
            raise invalid("#/recipients", "names a person who was erased, and gets no emails")
        await timeline.record(connection, campaign.id, "tested", f"Test sent to {len(checked)} recipients: {test.id}.")
        accepted = replace(await _accepted(connection, test, "test"), quota=quota)
        if settle is not None:
            await settle(connection, accepted)
    return accepted


async def pause(connection: AsyncConnection, campaign: CampaignRef) -> Accepted:
    """No email starts later than a second after the commit; those in flight are finished."""
    row = await campaign_row.lock(connection, campaign)
    columns = {"reason": PAUSED_BY_REQUEST, "blocked_by": None}
    await campaign_row.move(connection, row, CampaignStatus.PAUSED, "pause", **columns)
    await timeline.record(connection, campaign.id, "paused", PAUSED_BY_REQUEST)
    return await _accepted(connection, campaign, "pause")


async def resume(
    connection: AsyncConnection, campaign: CampaignRef, refused: Literal["retry", "keep"] | None = None
) -> Accepted:
    """Resumes a paused campaign. If a breaker has paused it, `refused` says whether the failed recipients are tried
    again, and the suppressions that followed are deleted; else raises DecisionNeededError."""
    row = await campaign_row.lock(connection, campaign)
    campaign_row.require_status(row, (CampaignStatus.PAUSED,), "resume")
    await campaign.tenant.require_open(connection)
    columns: dict[str, Any] = {"reason": None}
    text = "Resumed by request."
    if row.breaker is not None:
        retry = await _decided(connection, row, refused)
        await breakers.decide(connection, campaign.project_id, campaign.id, Breaker(row.breaker), retry=retry)
        text = "Resumed by request: the refused recipients " + ("are tried again." if retry else "stay failed.")
        if retry and (await counts(connection, campaign.id))["failed"]:
            columns["reopen"] = RETRY_FAILED.reopen
    await spread.forget(connection, campaign.id)
    if row.started_at is None and row.reason != PAUSED_BY_REQUEST:
        await complaints.lift(connection, campaign.project_id)
    await campaign_row.move(connection, row, CampaignStatus.QUEUED, "resume", **columns)
    await timeline.record(connection, campaign.id, "resumed", text)
    return await _accepted(connection, campaign, "resume")


async def cancel(connection: AsyncConnection, campaign: CampaignRef) -> Accepted:
    """Stops a campaign for good. What was sent stays sent; the dispatcher closes the rest as `cancelled`."""
    row = await campaign_row.lock(connection, campaign)
    await campaign_row.require_no_import(connection, campaign.id, "cancel")
    reason = "Cancelled by request."
    columns = {"stop_as": CampaignStatus.CANCELLED.value, "reopen": None, "reason": reason, "blocked_by": None}
    columns["breaker"] = None
    await campaign_row.move(connection, row, CampaignStatus.STOPPING, "cancel", **columns)
    await timeline.record(connection, campaign.id, "cancelling", reason)
    return await _accepted(connection, campaign, "cancel")


async def reopen(connection: AsyncConnection, campaign: CampaignRef, wanted: Reopening, deadline: Deadline) -> Accepted:
    """Asks the dispatcher to open recipients again; it does so batch by batch. The deadline of the campaign moves if a
    new one is given, or the old one has passed."""
    row = await campaign_row.lock(connection, campaign)
    if wanted.action not in campaign_row.possible(row):
        raise campaign_row.wrong_state(row, wanted.action)
    await campaign.tenant.require_open(connection)
    if row.reopen not in (None, wanted.reopen):
        raise ReopeningError(f"{row.reopen} is not done yet. Repeat this in a moment.")
    affected = (await counts(connection, campaign.id))[wanted.status]
    if affected == 0:
        raise NothingToDoError(f"No recipient is {wanted.status}.")
    columns: dict[str, Any] = {"reopen": wanted.reopen}
    if deadline.given is not None or row.deliver_by is None or row.deliver_by <= row.now:
        columns["deliver_by"] = deadline.after(row.now)
    if row.status in FINAL:
        columns |= {"reason": None, "finished_at": None}
        await campaign_row.move(connection, row, CampaignStatus.QUEUED, wanted.action, **columns)
    else:
        await campaign_row.change(connection, row, **columns)
    text = f"{wanted.action} requested for {affected} recipients."
    await timeline.record(connection, campaign.id, wanted.action, text)
    return await _accepted(connection, campaign, wanted.action)


async def _decided(connection: AsyncConnection, row: Row[Any], refused: str | None) -> bool:
    """Whether the refused are tried again. Raises ConflictError if that was not said, or cannot be done yet."""
    if refused is None:
        raise DecisionNeededError(
            f"A breaker has paused this campaign: {row.reason} Say `refused`: `retry` tries the failed recipients"
            " again and deletes the suppressions that followed; `keep` leaves both as they are.",
            breaker=row.breaker,
        )
    if row.reopen not in (None, RETRY_FAILED.reopen):
        raise ReopeningError(f"{row.reopen} is not done yet. Repeat this in a moment.")
    held = exists().where(col(Batch.campaign_id) == row.id, in_state(BatchState.SENDING))
    if await connection.scalar(select(held)):
        raise StillSendingError("Results of the last emails are still being recorded. Repeat this in a moment.")
    return refused == "retry"


async def _schedule(connection: AsyncConnection, row: Row[Any], start: float, deadline: Deadline) -> float:
    """Returns its deadline."""
    if start <= row.now:
        raise invalid("#/scheduled_at", "lies in the past; leave it out to send now")
    deliver_by = deadline.after(start)
    columns = {"scheduled_at": start, "deliver_by": deliver_by}
    if row.status == CampaignStatus.SCHEDULED:
        await campaign_row.change(connection, row, **columns)
    else:
        await campaign_row.move(connection, row, CampaignStatus.SCHEDULED, "send", **columns)
    text = f"Scheduled for {moment(start):%Y-%m-%d %H:%M:%S} UTC, {row.total} recipients."
    await timeline.record(connection, row.id, "scheduled", text)
    return deliver_by


def _warning(accepted: Accepted, warnings: Sequence[SendWarningOut]) -> Accepted:
    shown = CampaignSending(**accepted.summary.model_dump(), warnings=warnings)
    return replace(accepted, summary=shown)


async def _accepted(connection: AsyncConnection, campaign: CampaignRef, action: str) -> Accepted:
    event = CampaignRequested(campaign_id=campaign.id)
    return Accepted(action, await summary(connection, campaign), event)
