"""What the watchdog found and did about it, in one shape for logs, events, counters and `--once`."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.ledger import repair
from shared.ledger.repair import Repair


class Kind(StrEnum):
    RESCUE = "rescue"  # a batch was taken from its owner and waits again
    REPAIR = "repair"  # rows or counts were corrected
    CALL = "call"  # the dispatcher overlooked a campaign, and is called
    NOTICE = "notice"  # a problem that the watchdog cannot repair


class RescueReason(StrEnum):
    LEASE = "lease_expired"
    STALLED = "stalled"
    OVERDUE = "overdue"
    TICKET = "ticket_lost"


class CallReason(StrEnum):
    SCHEDULE = "schedule_due"
    QUEUED = "not_started"
    CLOSE = "not_closed"
    EXPIRED = "not_expired"
    STOP = "not_stopped"


REPAIR_REASONS = (*repair.Reason, *CallReason)


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    reason: str
    campaign_id: UUID
    text: str  # for people; it is in the campaign's timeline
    batch_id: int | None = None
    generation: int | None = None


def of_repair(done: Repair) -> Finding:
    return Finding(Kind.REPAIR, done.reason.value, done.campaign_id, done.text, done.batch_id, done.generation)
