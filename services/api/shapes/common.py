"""What the shapes of all kinds share."""

from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Generic, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from shared.addresses import AddressError, parse_address

T = TypeVar("T")

LAST_YEAR = 9998
"""Later moments do not fit into the arithmetic of every database."""

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
VISIBLE_ASCII = r"^[\x21-\x7e]+$"


def moment(seconds: float) -> datetime:
    """The ledger's seconds as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def checked_address(value: str) -> str:
    """A normalised address. Raises ValueError with a sentence for a person."""
    try:
        return parse_address(value).email
    except AddressError as error:
        raise ValueError(error.reason) from None


def _plannable(value: datetime) -> datetime:
    if value.year > LAST_YEAR:
        raise ValueError(f"lies beyond the year {LAST_YEAR}; give an earlier moment")
    return value


def _moment(value: object) -> object:
    return moment(value) if isinstance(value, int | float) else value


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        ((list, tuple), "a list"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), "an object")


def _field_value(value: object) -> object:
    """One error for a value that is of no kind a field may have, instead of one for each kind."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a character (a lone surrogate); remove it") from None
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("must be a finite number; NaN and Infinity are none")
    elif not (value is None or isinstance(value, int | float)):
        raise ValueError(f"must be text, a number, true, false or null, but it is {kind_of(value)}")
    return value


def _json_object(value: object) -> object:
    return orjson.loads(value) if isinstance(value, str) else value or {}


Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=NO_CONTROLS)]
"""One line of text that a header may contain."""
Email = Annotated[str, Field(max_length=1000), AfterValidator(checked_address)]
FutureMoment = Annotated[AwareDatetime, AfterValidator(_plannable)]
"""A moment that someone may plan for."""
FieldValue = Annotated[str | int | float | bool | None, BeforeValidator(_field_value)]
Fields = dict[str, FieldValue]
Moment = Annotated[datetime, BeforeValidator(_moment)]
"""Takes the ledger's seconds; shown as RFC 3339 in UTC."""
StoredFields = Annotated[Fields, BeforeValidator(_json_object)]
"""Takes the JSON of a column, or None."""
StoredObject = Annotated[dict[str, Any], BeforeValidator(_json_object)]


MOST_UNKNOWN = 5
"""Unknown members that are each named in an error."""


class Body(BaseModel):
    """A request body. Unknown members are refused, so that a misspelt one does not pass unnoticed."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, given: Any) -> Any:
        """Refuses many unknown members with one error: with one for each, the answer would hold up others."""
        if isinstance(given, dict) and len(given) > len(cls.model_fields) + MOST_UNKNOWN:
            raise ValueError(f"has {len(given)} members, and only {len(cls.model_fields)} are known here")
        return given


class Shown(BaseModel):
    """Part of an answer; built from a row of the ledger with `model_validate`."""

    model_config = ConfigDict(from_attributes=True)


class Page(BaseModel, Generic[T]):
    data: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` to get the next page. Null on the last page.")
