"""The events of a project, and whether it wants them."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from services.api.shapes.common import Body, Moment
from shared.ledger.facts import FactType


class EventOut(BaseModel):
    """What happened once. docs/webhooks.md lists what `data` holds by type."""

    id: str = Field(
        description="Stable: the same each time the event is delivered.",
        examples=["0190b5f0-5f3e-7c1e-8f3a-2d5c7f1e9a10-4711"],
    )
    version: int = Field(description="Raised by a change that breaks readers.", examples=[1])
    type: FactType
    at: Moment
    position: int = Field(description="Its place among the events of the project. Pass it as `after`.")
    project_id: UUID
    data: dict[str, Any] = Field(examples=[{"campaign_id": "0190b5f0-...", "recipient_id": 7, "email": "a@b.test"}])


class EventsPage(BaseModel):
    data: list[EventOut]
    next_cursor: str = Field(description="Pass it as `after` to get what comes next. Never null: events go on.")
    last_position: int = Field(description="Of the newest event.")
    enabled: bool = Field(description="False: the project wants no events, so none are written.")


class EventStreamIn(Body):
    enabled: bool = Field(description="Whether events are written even if the project has no webhook.")


class EventStreamOut(BaseModel):
    enabled: bool = Field(description="Events are written even if the project has no webhook.")
    wanted: bool = Field(description="Events are written now.")
    last_position: int = Field(description="Of the newest event.")
    forgotten_position: int = Field(description="Events up to here are past their retention and deleted.")
