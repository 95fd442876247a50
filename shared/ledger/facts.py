"""Facts: what happened to a recipient or a campaign, as a project's programs are told. docs/events.md lists them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.ledger.states import CampaignStatus, RecipientStatus


class FactType(StrEnum):
    """The names never change; new ones may be added."""

    RECIPIENT_SENT = "recipient.sent"
    RECIPIENT_FAILED = "recipient.failed"
    RECIPIENT_SUPPRESSED = "recipient.suppressed"
    RECIPIENT_EXPIRED = "recipient.expired"
    RECIPIENT_CANCELLED = "recipient.cancelled"
    RECIPIENT_UNKNOWN = "recipient.unknown"
    RECIPIENT_BOUNCED = "recipient.bounced"
    RECIPIENT_DELAYED = "recipient.delayed"
    RECIPIENT_COMPLAINED = "recipient.complained"
    RECIPIENT_UNSUBSCRIBED = "recipient.unsubscribed"
    CAMPAIGN_DRAFT = "campaign.draft"
    CAMPAIGN_SCHEDULED = "campaign.scheduled"
    CAMPAIGN_QUEUED = "campaign.queued"
    CAMPAIGN_STARTED = "campaign.started"
    CAMPAIGN_PAUSED = "campaign.paused"
    CAMPAIGN_STOPPING = "campaign.stopping"
    CAMPAIGN_FINISHED = "campaign.finished"
    CAMPAIGN_FAILED = "campaign.failed"
    CAMPAIGN_CANCELLED = "campaign.cancelled"
    CAMPAIGN_EXPIRED = "campaign.expired"
    #: An endpoint was disabled because it refused everything for three days.
    WEBHOOK_DISABLED = "webhook.disabled"
    #: Sent by `vashsender webhook test`.
    WEBHOOK_TEST = "webhook.test"


OF_RECIPIENT: Mapping[str, FactType] = {
    RecipientStatus.SENT: FactType.RECIPIENT_SENT,
    RecipientStatus.FAILED: FactType.RECIPIENT_FAILED,
    RecipientStatus.SUPPRESSED: FactType.RECIPIENT_SUPPRESSED,
    RecipientStatus.EXPIRED: FactType.RECIPIENT_EXPIRED,
    RecipientStatus.CANCELLED: FactType.RECIPIENT_CANCELLED,
    RecipientStatus.UNKNOWN: FactType.RECIPIENT_UNKNOWN,
}
"""By the status that a recipient closes with. An open recipient is no fact."""

OF_CAMPAIGN: Mapping[str, FactType] = {
    **{status: FactType(f"campaign.{status}") for status in CampaignStatus if status != CampaignStatus.SENDING},
    CampaignStatus.SENDING: FactType.CAMPAIGN_STARTED,
}
"""By the status that a campaign moves to."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. It holds no address: readers look that up, so what is erased is gone from here, too."""

    type: FactType
    #: None: the fact is about no campaign.
    campaign_id: UUID | None = None
    #: None: the fact is about a campaign.
    recipient_id: int | None = None
    #: What else an event of this type says: JSON values.
    details: Mapping[str, Any] = field(default_factory=dict)
