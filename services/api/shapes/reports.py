"""Reports of what came back, as they are shown."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.api.shapes.common import Moment, Shown

Kind = Literal["bounced", "delayed", "complained", "unsubscribed", "unknown"]


class ReportOut(Shown):
    id: int
    at: Moment
    kind: Kind = Field(description="`unknown`: a person has to read it.")
    verified: bool = Field(description="A token proves whom it is about. Others have changed nothing.")
    campaign_id: UUID | None
    recipient_id: int | None
    email: str | None = Field(description="The recipient; if it is not verified, the address that the report names.")
    via: Literal["mail", "api", "ses", "link"]
    reporter: str = Field(description="The server or the provider that reports.", examples=["mx.example.com"])
    code: int | None = Field(examples=[550])
    enhanced_code: str | None = Field(examples=["5.1.1"])
    why: str | None = Field(description="What the server means, by the table of replies.", examples=["no such mailbox"])
    consequence: str | None = Field(description="See `docs/replies.md`; `suppress`: the address is suppressed.")
    text: str


class TakenOut(Shown):
    """What came of a report."""

    result: Literal["recorded", "unverified", "repeated", "ignored", "forgotten"] = Field(
        description="`unverified`: kept for a person, because nothing proves whom it is about. `ignored`: an automatic"
        " reply, or a notice that an email was delivered. `forgotten`: the results of its campaign were deleted after"
        " their retention; who unsubscribes or complains is suppressed nevertheless."
    )
    kind: str = Field(description="What it says.", examples=["bounced"])
    report_id: int | None = None


class HookOut(Shown):
    url: str = Field(description="An https subscription of an SNS topic leads here. Keep it secret.")
