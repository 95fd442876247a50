"""Webhooks: what is asked for, and what is shown."""

from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from services.api.shapes.common import VISIBLE_ASCII, Body, Moment, Shown
from shared.ledger.facts import FactType

MAX_URL = 2000


def _checked_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("is not an https URL, such as https://app.example.com/hooks/vashsender")
    if parts.username is not None or "#" in value:
        raise ValueError("holds a user or a fragment; the signature says who sends")
    return value


Url = Annotated[str, StringConstraints(max_length=MAX_URL, pattern=VISIBLE_ASCII), AfterValidator(_checked_url)]
Types = Annotated[list[str], Field(max_length=50, description="Types of events, or `recipient.*`. Empty: all.")]


class WebhookIn(Body):
    url: Url = Field(examples=["https://app.example.com/hooks/vashsender"])
    types: Types = Field(default=[], examples=[["recipient.*", "campaign.finished"]])


class WebhookChange(Body):
    url: Url | None = None
    types: Types | None = None
    state: Literal["active", "paused"] | None = Field(
        None, description="`active` also enables an endpoint that was disabled; it goes on where it was."
    )


class ReplayIn(Body):
    """One of the two."""

    since: AwareDatetime | None = Field(None, description="Deliver again every event from this moment on.")
    set_aside: bool = Field(False, description="Deliver again the events that the endpoint refused.")

    @model_validator(mode="after")
    def _one(self) -> "ReplayIn":
        if (self.since is None) is not self.set_aside:
            raise ValueError("give either `since` or `set_aside`")
        return self


class WebhookOut(Shown):
    id: UUID
    url: str
    types: list[FactType]
    state: Literal["active", "paused", "disabled"]
    created_at: Moment
    cursor: int = Field(description="Events up to this position are settled.")
    behind: int = Field(description="Events after that one, of any type.")
    set_aside: int = Field(description="Events that it refused.")
    last_success_at: Moment | None
    last_status: int | None = Field(description="HTTP status of the newest POST that was answered.")
    last_error: str | None = Field(description="What is wrong; null once a POST was accepted.")
    failing_since: Moment | None
    next_attempt_at: Moment | None


class WebhookWithSecret(WebhookOut):
    secret: str = Field(description="Verifies signatures (Standard Webhooks). It is never shown again.")


class SetAsideOut(Shown):
    position: int
    at: Moment
    status: int
    error: str
    again: bool = Field(description="It is about to be delivered again.")


class Replayed(Shown):
    events: int | None = Field(description="How many were asked for again, of those set aside.")
