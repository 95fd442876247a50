"""The events services exchange. They wake; the ledger decides. A ticket carries nothing that can grow old.

Each has a version. A reader accepts fields it does not know, so a newer writer does not stop an older reader.
"""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Event(BaseModel):
    """`ROUTING_KEY` names what happened; no id stands in it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    ROUTING_KEY: ClassVar[str]
    version: Literal[1] = 1


class CampaignRequested(Event):
    """A campaign wants the dispatcher's attention: sent, resumed, cancelled, reopened, or found by a sweep."""

    ROUTING_KEY: ClassVar[str] = "campaign.requested"
    campaign_id: UUID


class BatchReleased(Event):
    """The ticket: whoever claims this generation of the batch may send it."""

    ROUTING_KEY: ClassVar[str] = "batch.released"
    batch_id: int
    campaign_id: UUID
    generation: int


class BatchFinished(Event):
    """A sender has let go of a batch: done, waiting for retries, or given back."""

    ROUTING_KEY: ClassVar[str] = "batch.finished"
    batch_id: int
    campaign_id: UUID
    generation: int


class BatchRequeued(Event):
    """A batch was taken back from whoever held it."""

    ROUTING_KEY: ClassVar[str] = "batch.requeued"
    batch_id: int
    campaign_id: UUID
    generation: int
    reason: str


class CampaignFinished(Event):
    """A campaign has closed."""

    ROUTING_KEY: ClassVar[str] = "campaign.finished"
    campaign_id: UUID
    status: str


class BatchProgress(BaseModel):
    """One batch in a sender's hands. `idle_seconds`: since its last result, by the sender's monotonic clock."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    batch_id: int
    campaign_id: UUID
    generation: int
    done: int
    in_flight: int
    idle_seconds: float
    age_seconds: float


class RelayHealth(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    state: str
    connections: int
    in_flight: int
    reason: str = ""


class SenderHeartbeat(Event):
    """How a sender process is. `slots`: batches it can hold at once; 0 while it drains. `blocked`: no relay of its can
    be used, so that it claims nothing now."""

    ROUTING_KEY: ClassVar[str] = "sender.heartbeat"
    instance: str
    host: str
    pid: int
    slot: str | None = None
    slots: int
    draining: bool = False
    blocked: bool = False
    uptime_seconds: float
    emails_done: int
    emails_per_second: float
    batches: tuple[BatchProgress, ...] = ()
    relays: tuple[RelayHealth, ...] = ()


class AnyProgress(Event):
    """Any event on the queue `default`. The dispatcher only needs to know that something changed."""

    ROUTING_KEY: ClassVar[str] = "progress"


EVENTS = (CampaignRequested, BatchReleased, BatchFinished, BatchRequeued, CampaignFinished, SenderHeartbeat)
"""Every event that is published."""
