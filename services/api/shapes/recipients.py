"""Recipients: as they come in, and as they are shown."""

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from services.api.shapes.common import Body, Fields, Moment, Shown, StoredFields
from shared.ledger.states import RecipientStatus


class RecipientIn(Body):
    """An address with its fields, under `data` or beside the address, as in an import."""

    model_config = ConfigDict(
        json_schema_extra={"additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
    )
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    data: Fields = Field(
        {}, description="The fields of this recipient, used in templates.", examples=[{"first_name": "Ann"}]
    )

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        """Members beside `email` and `data` are fields. One that is neither text, number, true, false nor null is an
        error, as it is under `data`."""
        if not isinstance(given, dict):
            return given
        beside = {name: value for name, value in given.items() if name not in cls.model_fields}
        data = given.get("data")
        if not beside or not (data is None or isinstance(data, dict)):
            return given
        return {**{name: given[name] for name in given if name == "email"}, "data": {**beside, **(data or {})}}


class RecipientOut(Shown):
    id: int
    email: str = Field(description="Empty: the person was erased.")
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
    waiting_for: str | None = Field(
        None,
        description="The provider and relay that a deferred recipient waits for: the provider refuses us for now, or a"
        " limit leaves no room. It spends no attempt.",
        examples=["gmail at smtp.example.com"],
    )
