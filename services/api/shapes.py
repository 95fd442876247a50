"""What goes over the wire about campaigns: the bodies that are accepted and the answers that are given."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from shared.addresses import AddressError, parse_address
from shared.content import Attachment
from shared.ledger.counts import Counts
from shared.ledger.states import CampaignStatus

MAX_INLINE_RECIPIENTS = 1000
MAX_TEST_RECIPIENTS = 10
MAX_RATE = 1_000_000.0

_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"

T = TypeVar("T")


def moment(seconds: float | None) -> datetime | None:
    """The ledger's seconds as RFC 3339 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _address(value: str) -> str:
    try:
        return parse_address(value).email
    except AddressError as error:
        raise ValueError(error.reason) from None


Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=_NO_CONTROLS)]
"""One line of text that may stand in a header."""
Email = Annotated[str, Field(max_length=1000), AfterValidator(_address)]
Scalar = str | int | float | bool | None
Fields = dict[str, Scalar]


class Body(BaseModel):
    """A request body: unknown members are refused, so that a misspelt one does not pass unnoticed."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Mailbox(Body):
    email: Email = Field(examples=["news@example.com"])
    name: Line = Field("", examples=["Example News"])


class RecipientIn(Body):
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    data: Fields = Field({}, description="Merge fields.", examples=[{"first_name": "Ann"}])


class _Content(Body):
    subject: str = Field(min_length=1, max_length=998, examples=["{{ first_name }}, our spring news"])
    html: str | None = Field(None, examples=["<p>Hello {{ first_name|default('there') }}!</p>"])
    text: str | None = Field(None, description="Derived from `html` where absent.")
    attachments: tuple[Attachment, ...] = Field((), max_length=20)


class CampaignIn(_Content):
    name: Line = Field(min_length=1, examples=["Spring news"])
    sender: Mailbox = Field(alias="from")
    reply_to: Email | None = None
    envelope_from: Email | None = Field(None, description="Where bounces go; `from.email` where absent.")
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    emails_per_second: float | None = Field(None, gt=0, le=MAX_RATE, examples=[100])
    priority: int = Field(0, ge=-100, le=100, description="A higher one gets its turn first.")
    max_retries: int = Field(3, ge=0, le=20)
    retry_delay_seconds: int = Field(60, ge=1, le=86_400, description="Before the first retry; doubles.")
    recipients: list[RecipientIn] = Field(
        [], max_length=MAX_INLINE_RECIPIENTS, description="A small list; larger ones are imported."
    )


class CampaignPatch(Body):
    """What is to change. `emails_per_second` and `priority` also change while the campaign is being sent.
    `scheduled_at` of a scheduled campaign: another moment, or null to make it a draft again."""

    name: Line | None = Field(None, min_length=1)
    sender: Mailbox | None = Field(None, alias="from")
    reply_to: Email | None = None
    envelope_from: Email | None = None
    subject: str | None = Field(None, min_length=1, max_length=998)
    html: str | None = None
    text: str | None = None
    attachments: tuple[Attachment, ...] | None = Field(None, max_length=20)
    delivery: Literal["at_least_once", "at_most_once"] | None = None
    emails_per_second: float | None = Field(None, gt=0, le=MAX_RATE)
    priority: int | None = Field(None, ge=-100, le=100)
    max_retries: int | None = Field(None, ge=0, le=20)
    retry_delay_seconds: int | None = Field(None, ge=1, le=86_400)
    scheduled_at: AwareDatetime | None = None


class CountsOut(BaseModel):
    """How many recipients are in each state; the states add up to `total`."""

    total: int
    pending: int
    deferred: int
    sent: int
    failed: int
    suppressed: int
    expired: int
    cancelled: int
    unknown: int


class RatesOut(BaseModel):
    limit_per_second: float | None = Field(description="The campaign's limit; null: none.")
    average_per_second: float | None = Field(description="Emails sent per second since the start; null before it.")


class CampaignSummary(BaseModel):
    id: UUID
    name: str
    status: CampaignStatus
    reason: str | None = Field(description="Why it is paused, failed or stopped.")
    blocked_by: str | None = Field(description="What keeps it from moving now; it goes on by itself.")
    counts: CountsOut
    rates: RatesOut
    priority: int
    test_of: UUID | None = None
    created_at: datetime | None
    scheduled_at: datetime | None
    deliver_by: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class CampaignOut(CampaignSummary):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
    sender: Mailbox = Field(alias="from")
    reply_to: str | None
    envelope_from: str
    subject: str
    html: str | None
    text: str | None
    attachments: list[str] = Field(description="Names of the attached files.")
    delivery: Literal["at_least_once", "at_most_once"]
    max_retries: int
    retry_delay_seconds: int
    rescued: int = Field(description="How often a batch was taken back from a sender that died or did not move.")
    reopening: str | None = Field(description="What retry-failed or resolve-unknown asked for and is not done yet.")


class Page(BaseModel, Generic[T]):
    data: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` for what follows; null: nothing follows.")


def summary_of(row: Any, counts: Counts, now: float) -> dict[str, Any]:
    """The members of CampaignSummary from a campaign row."""
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "reason": row.reason,
        "blocked_by": row.blocked_by,
        "counts": counts,
        "rates": {"limit_per_second": row.emails_per_second, "average_per_second": _average(row, counts, now)},
        "priority": row.priority,
        "test_of": row.test_of,
        **{
            name: moment(getattr(row, name))
            for name in ("created_at", "scheduled_at", "deliver_by", "started_at", "finished_at")
        },
    }


def _average(row: Any, counts: Mapping[str, int], now: float) -> float | None:
    if row.started_at is None:
        return None
    seconds = (row.finished_at or now) - row.started_at
    return round(counts["sent"] / seconds, 2) if seconds > 0 else None
