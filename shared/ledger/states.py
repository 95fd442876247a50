"""The states of campaigns, batches and recipients, and every transition between them.

A state changes only through `shared.ledger.campaigns`, `batches` and `recipients`, which take their guards from here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar, cast


class RecipientStatus(StrEnum):
    PENDING = "pending"  # open: not tried yet, or to be tried again
    DEFERRED = "deferred"  # open: answered 4xx, will be retried
    SENT = "sent"  # a relay accepted the email (250 after the body)
    FAILED = "failed"  # 5xx, or retries exhausted
    SUPPRESSED = "suppressed"  # on the project's suppression list when it was about to be sent
    EXPIRED = "expired"  # deliver_by passed
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the relay went silent after the body: it may or may not have been delivered


OPEN = (RecipientStatus.PENDING, RecipientStatus.DEFERRED)
CLOSED = tuple(status for status in RecipientStatus if status not in OPEN)


class BatchState(StrEnum):
    WAITING = "waiting"  # to be released at due_at
    RELEASED = "released"  # its ticket was published
    SENDING = "sending"  # claimed: an owner holds a lease
    DONE = "done"  # nothing open in its range
    CANCELLED = "cancelled"  # closed by cancel or expiry


LIVE = (BatchState.WAITING, BatchState.RELEASED, BatchState.SENDING)


class CampaignStatus(StrEnum):
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    QUEUED = "queued"  # accepted; the dispatcher starts it
    SENDING = "sending"
    PAUSED = "paused"
    STOPPING = "stopping"  # cancelled or past deliver_by; rows are being closed
    FINISHED = "finished"  # nothing open
    FAILED = "failed"  # nothing could be sent at all
    CANCELLED = "cancelled"
    EXPIRED = "expired"


FINAL = (CampaignStatus.FINISHED, CampaignStatus.FAILED, CampaignStatus.CANCELLED, CampaignStatus.EXPIRED)
ACTIVE = (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.STOPPING)
"""What the dispatcher works on."""

UNDER_WAY = (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED, CampaignStatus.STOPPING)
"""Accepted for sending and not closed."""

EDITABLE = (CampaignStatus.DRAFT, CampaignStatus.SCHEDULED)
"""Where content may change and recipients may be added."""


class ImportState(StrEnum):
    OPEN = "open"  # rows arrive
    DONE = "done"  # its recipients count
    UNDOING = "undoing"  # refused or cancelled: its rows are being taken out again
    FAILED = "failed"
    CANCELLED = "cancelled"


IMPORT_UNFINISHED = (ImportState.OPEN, ImportState.UNDOING)
"""While a campaign has such an import, the ledger has rows that do not count yet, so the campaign cannot start."""

_C = CampaignStatus
CAMPAIGN_TRANSITIONS: Mapping[CampaignStatus, tuple[CampaignStatus, ...]] = {
    _C.DRAFT: (_C.SCHEDULED, _C.QUEUED),
    _C.SCHEDULED: (_C.DRAFT, _C.QUEUED, _C.STOPPING),
    _C.QUEUED: (_C.SENDING, _C.PAUSED, _C.STOPPING),
    _C.SENDING: (_C.PAUSED, _C.STOPPING, _C.FINISHED, _C.FAILED),
    _C.PAUSED: (_C.QUEUED, _C.STOPPING),
    _C.STOPPING: (_C.CANCELLED, _C.EXPIRED),
    _C.FINISHED: (_C.QUEUED,),  # retry-failed, resolve-unknown
    _C.FAILED: (_C.QUEUED,),
    _C.CANCELLED: (),
    _C.EXPIRED: (),
}
NEW_CAMPAIGN = (_C.DRAFT, _C.QUEUED)
"""The statuses a campaign may start in; a test campaign is queued at once."""

_B = BatchState
BATCH_TRANSITIONS: Mapping[BatchState, tuple[BatchState, ...]] = {
    _B.WAITING: (_B.WAITING, _B.RELEASED, _B.CANCELLED),  # waiting again: due at another time
    _B.RELEASED: (_B.SENDING, _B.WAITING, _B.CANCELLED),
    _B.SENDING: (_B.SENDING, _B.WAITING, _B.DONE),  # sending again: resumed by its owner after a restart
    _B.DONE: (_B.WAITING,),  # retry-failed, or a repair found open rows
    _B.CANCELLED: (_B.WAITING,),
}
NEW_BATCH = (_B.WAITING, _B.RELEASED, _B.CANCELLED)
"""The states a batch may start in."""

_R = RecipientStatus
RECIPIENT_TRANSITIONS: Mapping[RecipientStatus, tuple[RecipientStatus, ...]] = {
    _R.PENDING: (_R.DEFERRED, *CLOSED),
    _R.DEFERRED: (_R.DEFERRED, *CLOSED),
    # A received 250 is always recorded, whatever happened meanwhile.
    _R.FAILED: (_R.SENT, _R.PENDING),
    _R.SUPPRESSED: (_R.SENT,),
    _R.EXPIRED: (_R.SENT,),
    _R.CANCELLED: (_R.SENT,),
    _R.UNKNOWN: (_R.SENT, _R.PENDING),
    _R.SENT: (),
}

_S = TypeVar("_S", CampaignStatus, BatchState, RecipientStatus)


def before(state: _S) -> tuple[_S, ...]:
    """The states from which a campaign, batch or recipient may move to `state`: the guard of every move."""
    table = cast(Mapping[_S, tuple[_S, ...]], _TRANSITIONS[type(state)])
    return tuple(source for source, targets in table.items() if state in targets)


_TRANSITIONS: Mapping[type[StrEnum], object] = {
    CampaignStatus: CAMPAIGN_TRANSITIONS,
    BatchState: BATCH_TRANSITIONS,
    RecipientStatus: RECIPIENT_TRANSITIONS,
}
