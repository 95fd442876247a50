"""What the watchdog found and did: one shape for logs, events, counters and the report of a sweep by hand."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.ledger import repair
from shared.ledger.repair import Repair


class Kind(StrEnum):
    RESCUE = "rescue"  # a batch was taken back and waits again
    REPAIR = "repair"  # rows or counts were mended
    CALL = "call"  # a campaign was overlooked: the dispatcher is called
    NOTICE = "notice"  # found, and for others to mend


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
class Deed:
    """`text` is for people, and stands in the campaign's timeline."""

    kind: Kind
    reason: str
    campaign_id: UUID
    text: str
    batch_id: int | None = None
    generation: int | None = None


def of_repair(done: Repair) -> Deed:
    return Deed(Kind.REPAIR, done.reason.value, done.campaign_id, done.text, done.batch_id, done.generation)
