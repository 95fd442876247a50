"""Recipients: as they come in, and as they are shown."""

from pydantic import Field

from services.api.shapes.common import Body, Fields, Moment, Shown, StoredFields
from shared.ledger.states import RecipientStatus


class RecipientIn(Body):
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    data: Fields = Field(
        {}, description="The fields of this recipient, used in templates.", examples=[{"first_name": "Ann"}]
    )


class RecipientOut(Shown):
    id: int
    email: str
    data: StoredFields
    status: RecipientStatus
    attempts: int
    next_attempt_at: Moment | None
    smtp_code: int | None = Field(examples=[550])
    enhanced_code: str | None = Field(examples=["5.1.1"])
    reply: str | None = Field(description="The last reply of a relay.", examples=["No such user here"])
    relay: str | None
    queue_id: str | None = Field(description="The relay's own id of the email, from its last reply.")
    sent_at: Moment | None
