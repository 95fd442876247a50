"""The events that services exchange over the broker. An event wakes; the ledger decides.

Every event has a version. Readers ignore fields they do not know, so a newer writer does not stop an older reader:
fields may be added, but never renamed, removed or given another meaning. docs/events.md is for consumers outside.
"""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LARGEST_NUMBER = 2**63 - 1
LARGEST_INTEGER = 2**31 - 1
LARGEST_SECONDS = 1e9
"""32 years. Moments this long ago can still be shown and stored."""
MOST_SLOTS = 100
"""Of one sender: the most that VASHSENDER_BATCHES_IN_HAND allows."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("contains control characters")
    return text


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


Id = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Count = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Generation = Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
Seconds = Annotated[float, Field(ge=0, le=LARGEST_SECONDS, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_printable)]
Words = Annotated[str, AfterValidator(_one_line)]
"""What a relay or a person wrote. It may hold what no database stores, such as a zero octet."""


class Event(BaseModel):
    """The base of all events. `ROUTING_KEY` says what happened and never contains an id."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    ROUTING_KEY: ClassVar[str]
    version: Literal[1] = Field(1, description="Version of this event. A change that breaks readers raises it.")


class CampaignRequested(Event):
    """A campaign needs the dispatcher: it was sent, resumed, cancelled or reopened, or a sweep found that it stands
    still."""

    ROUTING_KEY: ClassVar[str] = "campaign.requested"
    campaign_id: UUID = Field(description="The campaign.")


class BatchReleased(Event):
    """The ticket: a sender that claims this generation of the batch may deliver it. It carries nothing that can go out
    of date."""

    ROUTING_KEY: ClassVar[str] = "batch.released"
    batch_id: Id = Field(description="The batch.")
    campaign_id: UUID = Field(description="The batch's campaign.")
    generation: Generation = Field(description="Generation to claim. A ticket for an older generation is stale.")


class BatchFinished(Event):
    """A sender has let go of a batch: it is done, waits for retries, or was given back."""

    ROUTING_KEY: ClassVar[str] = "batch.finished"
    batch_id: Id = Field(description="The batch.")
    campaign_id: UUID = Field(description="The batch's campaign.")
    generation: Generation = Field(description="Generation that the sender held.")
    emails_per_second: Rate = Field(
        0.0,
        description="Its results per second since its first email; 0: none, it was given back early, or not said"
        " (before 0.2.0).",
    )


class BatchRequeued(Event):
    """A batch waits again without its sender having finished it: it was rescued or repaired."""

    ROUTING_KEY: ClassVar[str] = "batch.requeued"
    batch_id: Id = Field(description="The batch.")
    campaign_id: UUID = Field(description="The batch's campaign.")
    generation: Generation = Field(description="Generation after the change: older tickets and owners are stale.")
    reason: Words = Field(
        max_length=200, description="Why, such as `lease_expired`. For people and counters; values may be added."
    )


class CampaignFinished(Event):
    """A campaign has closed: no recipient of it is open any more."""

    ROUTING_KEY: ClassVar[str] = "campaign.finished"
    campaign_id: UUID = Field(description="The campaign.")
    status: Name = Field(max_length=50, description="Final status: `finished`, `failed`, `cancelled` or `expired`.")


class BatchProgress(BaseModel):
    """A batch that a sender holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    batch_id: Id = Field(description="The batch.")
    campaign_id: UUID = Field(description="The batch's campaign.")
    generation: Generation = Field(description="Generation that the sender holds.")
    done: Count = Field(description="Recipients with a result since the claim.")
    in_flight: Count = Field(description="Emails being delivered now.")
    idle_seconds: Seconds = Field(description="Seconds since the last result, by the sender's monotonic clock.")
    age_seconds: Seconds = Field(description="Seconds since the claim, by the sender's monotonic clock.")


class ProviderHealth(BaseModel):
    """A provider that rests at a relay, as one sender sees it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: Name = Field(max_length=500, description="Name of the provider, or a domain.")
    reason: Words = Field("", max_length=2000, description="Refusal that led to the rest, without addresses.")
    resting_for_seconds: Seconds = Field(0.0, description="Seconds until it is tried again.")


class RelayHealth(BaseModel):
    """A relay as one sender sees it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: Name = Field(max_length=500, description="Name of the relay.")
    group: Words = Field("", max_length=40, description="The group it belongs to; empty: it serves campaigns of none.")
    state: Name = Field(
        max_length=50, description="`up`, `slow` (used less, after failures) or `resting` (not used, after failures)."
    )
    connections: Count = Field(description="Open connections.")
    in_flight: Count = Field(description="Emails being delivered now.")
    reason: Words = Field("", max_length=2000, description="Latest failure, without addresses; empty while `up`.")
    resting_for_seconds: Seconds = Field(0.0, description="Seconds until it is used again; 0 unless `resting`.")
    connections_limit: Count = Field(0, description="Connections it may open now; 0: not said (before 0.2.0).")
    resting_providers: tuple[ProviderHealth, ...] = Field(
        (), max_length=100, description="Providers that rest at this relay, those that rest longest first."
    )


class SenderHeartbeat(Event):
    """How a sender is, every 5 seconds and when something changes."""

    ROUTING_KEY: ClassVar[str] = "sender.heartbeat"
    instance: Name = Field(max_length=200, description="Name of the sender process, unique among the living.")
    host: Name = Field(max_length=200, description="Host name of its machine.")
    pid: int = Field(ge=0, le=LARGEST_INTEGER, description="Process id on that machine.")
    slot: Name | None = Field(None, max_length=100, description="Slot name of a supervised sender, such as `sender-1`.")
    slots: int = Field(ge=0, le=MOST_SLOTS, description="Capacity: batches it can hold at once; 0 while it drains.")
    draining: bool = Field(False, description="Whether it is stopping.")
    blocked: bool = Field(False, description="Whether no relay can be used, so that it claims nothing now.")
    uptime_seconds: Seconds = Field(description="Seconds since the process started.")
    emails_done: Count = Field(description="Recipients with a result since the process started.")
    emails_per_second: Rate = Field(description="Results per second since the last heartbeat.")
    batches: tuple[BatchProgress, ...] = Field((), max_length=1000, description="Batches it holds.")
    relays: tuple[RelayHealth, ...] = Field((), max_length=1000, description="Relays it is configured with.")


class AnyProgress(Event):
    """Any event on the queue `default`. The dispatcher only needs to know which campaign has changed, and how fast it
    is sent."""

    ROUTING_KEY: ClassVar[str] = "progress"
    campaign_id: UUID | None = Field(None, description="The campaign.")
    emails_per_second: Rate = Field(0.0, description="See `batch.finished`.")


EVENTS: tuple[type[Event], ...] = (
    CampaignRequested,
    BatchReleased,
    BatchFinished,
    BatchRequeued,
    CampaignFinished,
    SenderHeartbeat,
)
"""Every event that is published."""
