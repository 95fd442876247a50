"""One recipient as it is stored: checked address, and merge fields as JSON."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import orjson

from shared.addresses import AddressError, parse_address
from shared.errors import DataError
from shared.templates import MAX_VALUE_CHARACTERS

MAX_DATA_BYTES = 65_536


class Row(NamedTuple):
    """A recipient to store. `key` tells mailboxes apart; `data` is a JSON object, or None without merge fields."""

    line: int
    email: str
    key: str
    data: str | None


class RowError(DataError):
    """This recipient cannot be stored; others can. `field` names the merge field at fault, if it is one."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


def make_row(line: int, email: object, fields: Mapping[str, Any], required: Collection[str]) -> Row:
    """Checks one recipient. `required` are the merge fields the message needs. Raises RowError."""
    if not isinstance(email, str):
        raise RowError("There is no email address." if email is None else "The email address is not a text.")
    try:
        address = parse_address(email)
    except AddressError as error:
        raise RowError(error.reason) from None
    for name in required:
        if fields.get(name) is None:
            raise RowError(f"There is no {name!r}, which the message needs.", name)
    return Row(line, address.email, address.key, _data(fields) if fields else None)


def _data(fields: Mapping[str, Any]) -> str:
    for name, value in fields.items():
        if type(value) is str:
            if len(value) > MAX_VALUE_CHARACTERS:
                raise RowError(f"The value of {name!r} exceeds {MAX_VALUE_CHARACTERS} characters.", name)
        elif not (value is None or isinstance(value, str | int | float)):
            raise RowError(f"The value of {name!r} is neither text, number, true, false nor null.", name)
    try:
        data = orjson.dumps(fields)
    except (orjson.JSONEncodeError, TypeError) as error:
        raise RowError(f"The merge fields cannot be stored: {error}.") from None
    if len(data) > MAX_DATA_BYTES:
        raise RowError(f"The merge fields exceed {MAX_DATA_BYTES} bytes.")
    return data.decode()
