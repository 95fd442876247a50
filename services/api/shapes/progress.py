"""Progress of a campaign: one event of its stream, and one entry of its timeline."""

from pydantic import BaseModel, Field

from services.api.shapes.campaigns import CountsOut, RatesOut
from services.api.shapes.common import Moment, Shown
from shared.ledger.states import CampaignStatus


class LiveRates(RatesOut):
    current_per_second: float | None = Field(description="Emails sent per second since the previous event.")


class Progress(BaseModel):
    """One event."""

    at: Moment | None
    status: CampaignStatus
    reason: str | None
    blocked_by: str | None
    counts: CountsOut
    rates: LiveRates


class TimelineEntry(Shown):
    at: Moment | None
    last_at: Moment | None = Field(description="When it last happened. `times` counts the repeats in a row.")
    kind: str = Field(examples=["paused"])
    text: str = Field(examples=["Paused by request."])
    times: int
