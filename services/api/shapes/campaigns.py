"""Campaigns: the bodies that are accepted and the answers that are given."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.api.shapes.common import Body, Email, FutureMoment, Line, Moment, Shown, checked_address
from services.api.shapes.recipients import RecipientIn
from shared.content import Attachment
from shared.ledger.states import CampaignStatus

MAX_INLINE_RECIPIENTS = 1000
MAX_TEST_RECIPIENTS = 10
MAX_RATE = 1_000_000.0


class Mailbox(Body):
    email: Email = Field(examples=["news@example.com"])
    name: Line = Field("", examples=["Example News"])

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError('is an object, such as {"email": "news@example.com", "name": "Example News"}')
        return given


def _mailbox(given: Any) -> Any:
    return Mailbox(email=checked_address(given)) if isinstance(given, str) else given


ReplyTo = Annotated[Mailbox, BeforeValidator(_mailbox, json_schema_input_type=str | Mailbox)]
"""A mailbox, or an address as text."""


class CampaignIn(Body):
    name: Line = Field(min_length=1, examples=["Spring news"])
    sender: Mailbox = Field(alias="from")
    reply_to: ReplyTo | None = Field(
        None,
        description="Where answers go: an address, or an object like `from`.",
        examples=[{"email": "answers@example.com", "name": "Example Support"}],
    )
    envelope_from: Email | None = Field(None, description="Where bounces go. Default: `from.email`.")
    subject: str = Field(min_length=1, max_length=998, examples=["{{ first_name }}, our spring news"])
    html: str | None = Field(None, examples=["<p>Hello {{ first_name|default('there') }}!</p>"])
    text: str | None = Field(None, description="Default: derived from `html`.")
    attachments: tuple[Attachment, ...] = Field((), max_length=20)
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    emails_per_second: float | None = Field(None, gt=0, le=MAX_RATE, examples=[100])
    relay_group: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description="The group of relays that sends it. Default: that of the domain of `from.email`, if it has one.",
    )
    priority: int = Field(0, ge=-100, le=100, description="A campaign with a higher priority is served first.")
    max_retries: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Retries of a deferred recipient. Default: the senders' schedule, until `deliver_by`;"
        " 3 if `retry_delay_seconds` is given.",
    )
    retry_delay_seconds: int | None = Field(
        None,
        ge=1,
        le=86_400,
        description="Seconds before the first retry. Doubles with every further one. Default: the senders' schedule;"
        " 60 if `max_retries` is given.",
    )
    recipients: list[RecipientIn] = Field(
        [], max_length=MAX_INLINE_RECIPIENTS, description="A short list. Import a longer one."
    )


class CampaignPatch(Body):
    """The members to change. `emails_per_second`, `priority` and `deliver_by` can also be changed while the campaign is
    being sent. `scheduled_at` reschedules a scheduled campaign; null makes it a draft again. A default `deliver_by`
    moves with it. `max_retries` and `retry_delay_seconds` both null: the senders' retry schedule decides."""

    name: Line | None = Field(None, min_length=1)
    sender: Mailbox | None = Field(None, alias="from")
    reply_to: ReplyTo | None = None
    envelope_from: Email | None = None
    subject: str | None = Field(None, min_length=1, max_length=998)
    html: str | None = None
    text: str | None = None
    attachments: tuple[Attachment, ...] | None = Field(None, max_length=20)
    delivery: Literal["at_least_once", "at_most_once"] | None = None
    emails_per_second: float | None = Field(None, gt=0, le=MAX_RATE)
    relay_group: str | None = Field(None, min_length=1, max_length=40)
    priority: int | None = Field(None, ge=-100, le=100)
    max_retries: int | None = Field(None, ge=0, le=20)
    retry_delay_seconds: int | None = Field(None, ge=1, le=86_400)
    scheduled_at: FutureMoment | None = None
    deliver_by: FutureMoment | None = Field(None, description="New deadline, once the campaign was sent.")


class SendIn(Body):
    scheduled_at: FutureMoment | None = Field(None, description="When to start. Default: now.")
    deliver_by: FutureMoment | None = Field(
        None,
        description="Deadline. Emails not sent by then are never sent. Default: 72 hours after the start.",
    )


class ResumeIn(Body):
    refused: Literal["retry", "keep"] | None = Field(
        None,
        description="Required if `breaker` is set. `retry` tries the failed recipients again and deletes the"
        " suppressions that followed from the refusals; `keep` leaves both.",
    )


class ReopenIn(Body):
    deliver_by: FutureMoment | None = Field(
        None, description="New deadline. Optional. If the old deadline has passed, it is extended automatically."
    )


class ResolveIn(ReopenIn):
    resolve_as: Literal["sent", "resend"] = Field(
        alias="as",
        description="`sent` counts these recipients as sent. `resend` sends to them again, perhaps a second copy.",
    )


class TestIn(Body):
    recipients: list[RecipientIn] = Field(min_length=1, max_length=MAX_TEST_RECIPIENTS)


class CountsOut(BaseModel):
    """The number of recipients in each status. The statuses add up to `total`; the last three do not count."""

    total: int
    pending: int
    deferred: int
    sent: int
    failed: int
    suppressed: int
    expired: int
    cancelled: int
    unknown: int
    bounced: int = Field(0, description="Sent, but it came back.")
    complained: int = Field(0, description="Sent, and called spam by the recipient.")
    unsubscribed: int = Field(0, description="Sent, and the recipient wants no more.")


class RatesOut(BaseModel):
    limit_per_second: float | None = Field(description="The campaign's rate limit. Null: unlimited.")
    average_per_second: float | None = Field(
        description="Emails sent per second since the campaign started. Null before the start."
    )


class CampaignSummary(Shown):
    id: UUID
    name: str
    status: CampaignStatus
    reason: str | None = Field(description="Why the campaign is paused, failed or was stopped.")
    blocked_by: str | None = Field(description="What keeps the campaign from moving now. It continues by itself.")
    breaker: Literal["relay", "list"] | None = Field(
        description="The breaker that paused the campaign, if one did: `resume` then takes a decision. `relay`: a relay"
        " refuses nearly everyone. `list`: too many addresses have no mailbox."
    )
    counts: CountsOut
    rates: RatesOut
    priority: int
    test_of: UUID | None = None
    created_at: Moment | None
    scheduled_at: Moment | None
    deliver_by: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    forgotten_at: Moment | None = Field(
        None, description="When its recipients, results and content were deleted, after the project's retention."
    )


class RefusalOut(BaseModel):
    """Recipients with the same status and reply, or reports with the same reason."""

    status: str = Field(description="Of the recipients, or the kind of the reports.", examples=["failed"])
    code: str = Field(examples=["550 5.1.1"])
    text: str = Field(examples=["<…>: No such user here"])
    number: int


class ForgottenOut(BaseModel):
    """What is left of a campaign's results."""

    days: int = Field(description="The retention after which they were deleted.")
    is_done: bool = Field(description="False: rows are still being deleted.")
    recipients: int = Field(description="Deleted so far.")
    reports: int = Field(description="Deleted so far.")
    refusals: list[RefusalOut] = Field(description="The most frequent first.")


class SendWarningOut(Shown):
    pointer: str = Field(description="What to change, such as `#/deliver_by`; `#`: the installation.")
    detail: str


class CampaignSending(CampaignSummary):
    warnings: list[SendWarningOut] = Field(
        [], description="Limits that leave no time for all of its emails, and what is wrong with its domains."
    )


class ContentWarningOut(Shown):
    pointer: str = Field(description="The part, such as `#/html`.")
    detail: str
    line: int
    column: int


class CampaignOut(CampaignSummary):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
    sender: Mailbox = Field(alias="from")
    reply_to: str | Mailbox | None = Field(description="An object if it has a name, else the address.")
    envelope_from: str
    subject: str
    html: str | None
    text: str | None
    relay_group: str | None
    attachments: list[str] = Field(description="File names of the attachments.")
    warnings: list[ContentWarningOut] = Field(
        [],
        description="In the answer to a new campaign or content: what may not be meant, such as merge tags of other"
        " systems.",
    )
    delivery: Literal["at_least_once", "at_most_once"]
    max_retries: int | None = Field(description="null: the senders' retry schedule decides.")
    retry_delay_seconds: int | None
    rescued: int = Field(description="How often a batch was taken from a sender that had died or stopped moving.")
    forgotten: ForgottenOut | None = Field(None, description="A summary, if `forgotten_at` is set.")
    reopening: str | None = Field(description="The request of retry-failed or resolve-unknown that is in progress.")
