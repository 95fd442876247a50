"""Services, queues and batches, as they are shown."""

from uuid import UUID

from pydantic import BaseModel, Field

from services.api.shapes.common import Moment, Shown, StoredObject
from shared.ledger.states import BatchState, RecipientStatus


class ServiceOut(Shown):
    id: str = Field(examples=["sender-1@mail"])
    service: str
    host: str
    pid: int
    slot: str | None
    slots: int = Field(description="How many batches it can hold at once. 0 for services other than senders.")
    draining: bool
    alive: bool = Field(description="It has reported within the last 20 seconds (`VASHSENDER_INSTANCE_LOST_SECONDS`).")
    started_at: Moment | None
    seen_at: Moment | None
    detail: StoredObject


class QueueOut(Shown):
    name: str
    exists: bool
    messages: int = Field(description="Messages waiting to be delivered, without those that consumers hold.")
    consumers: int


class BatchOut(Shown):
    id: int
    project_id: UUID
    campaign_id: UUID
    state: BatchState
    size: int
    generation: int = Field(description="Grows each time the batch changes hands.")
    owner: str | None
    due_at: Moment | None
    released_at: Moment | None
    claimed_at: Moment | None
    lease_until: Moment | None
    rescues: int
    counts: dict[RecipientStatus, int]


class _Whole(BaseModel):
    """A list that is never cut into pages."""

    next_cursor: None = None


class Services(_Whole):
    data: list[ServiceOut]


class Queues(_Whole):
    data: list[QueueOut]
