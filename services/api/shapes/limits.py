"""Limits: as they are set, and as they are shown."""

from pydantic import BaseModel, Field

from services.api.shapes.campaigns import MAX_RATE
from services.api.shapes.common import Body, Shown

MAX_CAP = 2**31 - 1


class WarmUp(Body):
    """A cap per day that grows from day to day (UTC)."""

    start: int = Field(ge=1, le=MAX_CAP, description="Emails on the first day.", examples=[500])
    growth_per_day: float = Field(gt=1, le=10, description="The factor for each further day.", examples=[1.5])
    until: int = Field(ge=1, le=MAX_CAP, description="The emails per day at which it is over.", examples=[100_000])


class LimitIn(Body):
    """All limits of a project or a relay. One that is left out is removed."""

    emails_per_second: float | None = Field(None, gt=0, le=MAX_RATE, examples=[50])
    emails_per_hour: int | None = Field(None, ge=1, le=MAX_CAP, description="In one hour of UTC, at most.")
    emails_per_day: int | None = Field(None, ge=1, le=MAX_CAP, description="In one day of UTC, at most.")
    warmup: WarmUp | None = None


class LimitOut(Shown):
    scope: str = Field(examples=["relay:smtp.example.com"])
    emails_per_second: float | None
    emails_per_hour: int | None
    emails_per_day: int | None
    warmup: WarmUp | None
    cap_today: int | None = Field(description="Emails today, at most: the lower of `emails_per_day` and the warm-up's.")
    emails_this_hour: int
    emails_today: int
    waiting_for: str | None = Field(description="The cap that is used up, and how long it lasts.")


class Limits(BaseModel):
    data: list[LimitOut]
    next_cursor: None = None
