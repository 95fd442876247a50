"""What pydantic finds wrong with a value, in words for the person who sent it: what is wrong, and how to mend it."""

from collections.abc import Callable, Mapping
from typing import Any

from services.api.shapes.common import NO_CONTROLS, VISIBLE_ASCII, kind_of

EXAMPLE_ID = "0199b2f0-5c1e-7a44-9d51-0d2b8f2f3c11"

_MOMENT = "must be a date and time with a zone, such as 2030-01-31T09:00:00+03:00"
_PATTERNS = {
    NO_CONTROLS: "must be one line without control characters; remove the line breaks",
    VISIBLE_ASCII: "must be visible ASCII characters without spaces, such as a UUID",
}

Found = Mapping[str, Any]
"""One error as pydantic lists it."""


def in_our_words(found: Found) -> str:
    """A phrase that follows the name of the value, such as `must be a number, but it is null`."""
    words = WORDS.get(found["type"])
    if words is None:
        return str(found["msg"])
    return words if isinstance(words, str) else words(found)


def path_of(found: Found) -> tuple[object, ...]:
    """The names and positions that lead to the value. An error about a name itself has the place of the name."""
    return tuple(part for part in found["loc"] if part != "[key]")


def _must_be(what: str) -> Callable[[Found], str]:
    def words(found: Found) -> str:
        given = found.get("input")
        # A parameter, and a field of a form, is always text: its kind says nothing.
        return f"must be {what}" if isinstance(given, str) else f"must be {what}, but it is {kind_of(given)}"

    return words


def _text(found: Found) -> str:
    return f"must be text, but it is {kind_of(found.get('input'))}"


def _object(found: Found) -> str:
    return f"must be a JSON object, but it is {kind_of(found.get('input'))}"


def _own(found: Found) -> str:
    return str(found.get("ctx", {}).get("error") or found["msg"].removeprefix("Value error, "))


def _too_short(found: Found) -> str:
    least = found["ctx"]["min_length"]
    return "must not be empty" if least == 1 else f"must have at least {least} characters"


def _too_few(found: Found) -> str:
    least = found["ctx"]["min_length"]
    return "must not be empty" if least == 1 else f"must have at least {least} items"


def _limit(sign: str, name: str) -> Callable[[Found], str]:
    return lambda found: f"must be {sign} {found['ctx'][name]}"


WORDS: Mapping[str, str | Callable[[Found], str]] = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not known here; remove it, or check its spelling",
    "value_error": _own,
    "string_type": _text,
    "string_too_short": _too_short,
    "string_too_long": lambda found: (
        f"has {len(found['input'])} characters; at most {found['ctx']['max_length']} are possible"
    ),
    "string_pattern_mismatch": lambda found: _PATTERNS.get(
        found["ctx"]["pattern"], "is not possible here; check its spelling"
    ),
    "string_unicode": "holds half of a character (a lone surrogate); remove it",
    "int_type": _must_be("a whole number, such as 3"),
    "int_parsing": _must_be("a whole number, such as 3"),
    "int_parsing_size": "has too many digits; give a smaller number",
    "int_from_float": "must be a whole number, such as 3; it has a fraction",
    "float_type": _must_be("a number, such as 2.5"),
    "float_parsing": _must_be("a number, such as 2.5"),
    "finite_number": "must be a finite number; NaN and Infinity are none",
    "bool_type": _must_be("true or false"),
    "bool_parsing": _must_be("true or false"),
    "greater_than": _limit("greater than", "gt"),
    "greater_than_equal": _limit("at least", "ge"),
    "less_than": _limit("less than", "lt"),
    "less_than_equal": _limit("at most", "le"),
    "literal_error": lambda found: f"must be {found['ctx']['expected']}",
    "enum": lambda found: f"must be {found['ctx']['expected']}",
    "list_type": _must_be("a list"),
    "tuple_type": _must_be("a list"),
    "dict_type": _object,
    "model_type": _object,
    "model_attributes_type": _object,
    "too_long": lambda found: (
        f"has {found['ctx']['actual_length'] or 'more'} items; at most {found['ctx']['max_length']} are possible"
    ),
    "too_short": _too_few,
    "uuid_type": f"must be an id as the API gives it, such as {EXAMPLE_ID}",
    "uuid_parsing": f"must be an id as the API gives it, such as {EXAMPLE_ID}",
    "timezone_aware": "needs a time zone: add Z, or an offset such as +03:00",
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
    "datetime_object_invalid": _MOMENT,
}
