"""How values compare and decide. CSV files hold only text, so numbers and truth values are also read from text."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | bool | None
Values: TypeAlias = Mapping[str, Value]

BOOLEAN_WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "да", "ja", "oui", "si", "sí", "sim"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "нет", "nein", "non", "não"), False),
}
"""What a column that is declared boolean may hold, in lower case. The ledger keeps it as true or false."""

# A leading zero or plus marks a postal code or a telephone number, which stay text.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,30})?")
_LINK_START = re.compile(r"(?:https?://|mailto:|tel:|sms:)[^\s]", re.IGNORECASE)


def number_of(value: object) -> int | float | None:
    """The number that a value is or spells, such as 7 for `7` and `' 7'`; None for any other."""
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return None
        return float(text) if "." in text else int(text)
    return value if isinstance(value, int | float) else None


def holds(value: object) -> bool:
    """Whether an `if` takes this value for true. False are null, blank text, false, zero, and the last two as text."""
    if isinstance(value, str):
        text = value.strip()
        return bool(text) and text.lower() != "false" and number_of(text) != 0
    return bool(value)


def is_blank(value: object) -> bool:
    """Whether a value counts as absent at import: null, or text without a visible character."""
    return value is None or (isinstance(value, str) and not value.strip())


def can_start_link(text: str) -> bool:
    """Whether a link may begin with this text: no `javascript:`, no `data:`, nothing relative."""
    return _LINK_START.match(text) is not None


def equal(left: Any, right: Any) -> bool:
    """Two texts are compared as text; a text and a number as numbers; a text and true or false as truth values."""
    if isinstance(right, str) and not isinstance(left, str):
        left, right = right, left
    if isinstance(left, str) and not isinstance(right, str):
        if isinstance(right, bool):
            return BOOLEAN_WORDS.get(left.strip().lower()) is right
        return right is not None and number_of(left) == right
    return bool(left == right)


def ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """`<` and its like: by number where both are or spell numbers, else as text. Raises TypeError for a mixture."""

    def compared(left: Any, right: Any) -> bool:
        first, second = number_of(left), number_of(right)
        if first is not None and second is not None:
            return compare(first, second)
        return compare(left, right)

    return compared
