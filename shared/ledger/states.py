"""States and the transitions between them: the only place that lists them."""

from enum import StrEnum


class RecipientStatus(StrEnum):
    PENDING = "pending"  # open: not tried yet, or to be tried again
    DEFERRED = "deferred"  # open: answered 4xx, will be retried
    SENT = "sent"  # a relay accepted the email (250 after the body)
    FAILED = "failed"  # 5xx, or retries exhausted
    SUPPRESSED = "suppressed"  # on the project's suppression list when its turn came
    EXPIRED = "expired"  # deliver_by passed
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the relay went silent after the body and nobody can know


OPEN = (RecipientStatus.PENDING, RecipientStatus.DEFERRED)
CLOSED = tuple(status for status in RecipientStatus if status not in OPEN)


class BatchState(StrEnum):
    WAITING = "waiting"  # to be released at due_at
    RELEASED = "released"  # a ticket is out
    SENDING = "sending"  # claimed: an owner holds a lease
    DONE = "done"  # nothing open in its range
    CANCELLED = "cancelled"  # closed by cancel or expiry


LIVE = (BatchState.WAITING, BatchState.RELEASED, BatchState.SENDING)


class CampaignStatus(StrEnum):
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    QUEUED = "queued"  # accepted; the dispatcher's first turn follows
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
"""Sent, and not closed yet."""

EDITABLE = (CampaignStatus.DRAFT, CampaignStatus.SCHEDULED)
"""Where content may change and recipients may be added."""


class ImportState(StrEnum):
    OPEN = "open"  # rows arrive
    DONE = "done"  # its recipients count
    UNDOING = "undoing"  # refused or cancelled: its rows are being taken out again
    FAILED = "failed"
    CANCELLED = "cancelled"


IMPORT_UNFINISHED = (ImportState.OPEN, ImportState.UNDOING)
"""While a campaign has such an import, rows stand in the ledger that do not count: nothing may start on them."""

_C = CampaignStatus
CAMPAIGN_TRANSITIONS: dict[CampaignStatus, tuple[CampaignStatus, ...]] = {
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

_B = BatchState
BATCH_TRANSITIONS: dict[BatchState, tuple[BatchState, ...]] = {
    _B.WAITING: (_B.RELEASED, _B.DONE, _B.CANCELLED),
    _B.RELEASED: (_B.SENDING, _B.WAITING, _B.DONE, _B.CANCELLED),
    _B.SENDING: (_B.WAITING, _B.DONE, _B.CANCELLED),
    _B.DONE: (_B.WAITING,),  # retry-failed, or the sweep found open rows
    _B.CANCELLED: (_B.WAITING,),
}

_R = RecipientStatus
RECIPIENT_TRANSITIONS: dict[RecipientStatus, tuple[RecipientStatus, ...]] = {
    _R.PENDING: (_R.DEFERRED, *CLOSED),
    _R.DEFERRED: (_R.DEFERRED, *CLOSED),
    # Facts win: a 250 that was received is recorded whatever happened meanwhile.
    _R.FAILED: (_R.SENT, _R.PENDING),
    _R.SUPPRESSED: (_R.SENT,),
    _R.EXPIRED: (_R.SENT,),
    _R.CANCELLED: (_R.SENT,),
    _R.UNKNOWN: (_R.SENT, _R.PENDING),
    _R.SENT: (),
}


def before(status: CampaignStatus) -> tuple[CampaignStatus, ...]:
    """The statuses from which a campaign may go to `status`: the guard of every conditional update."""
    return tuple(source for source, targets in CAMPAIGN_TRANSITIONS.items() if status in targets)
