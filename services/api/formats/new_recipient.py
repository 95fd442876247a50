"""One recipient to be stored: a checked address, and its fields as JSON."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from shared.addresses import AddressError, parse_address
from shared.errors import DataError
from shared.templates import MAX_VALUE_CHARACTERS, Content

MAX_DATA_BYTES = 65_536


class NewRecipient(NamedTuple):
    """A recipient that has been checked but not stored."""

    line: int  # of the file, from 1; in a JSON list the number of the item
    email: str
    key: str  # the normalised address: equal for two spellings of one mailbox
    data: str | None  # a JSON object; None if there are no fields


class RecipientError(DataError):
    """This recipient cannot be stored; others can. `field` names the field at fault, if it is one."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


def check_recipient(line: int, email: object, fields: Mapping[str, Any], content: Content) -> NewRecipient:
    """Checks one recipient, and that the content can be rendered for it. Raises RecipientError."""
    if not isinstance(email, str):
        raise RecipientError("There is no email address." if email is None else "The email address is not a text.")
    try:
        address = parse_address(email)
    except AddressError as error:
        raise RecipientError(error.reason) from None
    data = _as_json(fields) if fields else None
    if content.needs and (problem := content.problem(fields)):
        raise RecipientError(problem.message, problem.field)
    return NewRecipient(line, address.email, address.key, data)


def _as_json(fields: Mapping[str, Any]) -> str:
    for name, value in fields.items():
        if type(value) is str:
            if len(value) > MAX_VALUE_CHARACTERS:
                raise RecipientError(f"The value of {name!r} exceeds {MAX_VALUE_CHARACTERS} characters.", name)
        elif not (value is None or isinstance(value, str | int | float)):
            raise RecipientError(f"The value of {name!r} is not a text, a number, true, false or null.", name)
    try:
        data = orjson.dumps(fields)
    except (orjson.JSONEncodeError, TypeError) as error:
        raise RecipientError(f"The fields cannot be stored: {error}.") from None
    if len(data) > MAX_DATA_BYTES:
        raise RecipientError(f"The fields exceed {MAX_DATA_BYTES} bytes.")
    return data.decode()
