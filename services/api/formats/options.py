"""How a client asks for its file to be read: which column is the address, what other columns are called, which hold
yes or no."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.addresses import INVISIBLE
from shared.errors import DataError
from shared.templates import BOOLEAN_WORDS

EMAIL = "email"
MAX_OPTION_CHARACTERS = 10_000
TYPES = ("boolean",)


class OptionError(DataError):
    """An option that cannot be understood. `option` is its name in the query."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Column names here are those of the file; field names are those of the message."""

    # Column in the file -> field in the message. `email` among the fields names the address.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Fields whose words mean yes or no.
    booleans: frozenset[str] = frozenset()

    def field_of(self, column: str) -> str:
        """The field that a column fills. The column `email`, in any case, is the address unless another one is."""
        mapped = self.columns.get(column)
        if mapped is not None:
            return mapped
        if column.lower() == EMAIL:
            return column if self.names_address else EMAIL
        return column

    @property
    def names_address(self) -> bool:
        """Whether the client said which column holds the address."""
        return EMAIL in self.columns.values()


NO_OPTIONS = ReadOptions()


def read_options(
    email_column: str | None = None, columns: Iterable[str] = (), types: Iterable[str] = ()
) -> ReadOptions:
    """The options of a query. `columns` and `types` hold `COLUMN:field` and `field:boolean`, several divided by commas;
    a name that holds a comma or a quote is quoted as in CSV. Raises OptionError."""
    mapped: dict[str, str] = {}
    for column, name in _pairs("columns", columns):
        target = EMAIL if name.lower() == EMAIL else name
        if column in mapped:
            raise OptionError("columns", f"names the column {column!r} twice")
        if target in mapped.values():
            raise OptionError("columns", f"gives two columns to the field {name!r}")
        mapped[column] = target
    if email_column is not None:
        column = clean_name(email_column)
        if not column:
            raise OptionError("email_column", "is empty; give the name of the column that holds the addresses")
        if EMAIL in mapped.values() and mapped.get(column) != EMAIL:
            raise OptionError("email_column", "names another column than `columns` does; give only one of them")
        mapped[column] = EMAIL
    booleans = set()
    for name, kind in _pairs("types", types):
        if kind not in TYPES:
            raise OptionError("types", f"knows no type {kind!r}; possible: {', '.join(TYPES)}")
        booleans.add(name)
    return ReadOptions(mapped, frozenset(booleans))


def as_boolean(value: object) -> bool | None:
    """True or false for the words people write in a yes-or-no column; None for an empty cell. Raises ValueError."""
    if value is None or type(value) is bool:
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    word = str(value).strip().lower()
    if not word:
        return None
    if word not in BOOLEAN_WORDS:
        raise ValueError(word)
    return BOOLEAN_WORDS[word]


def clean_name(name: str) -> str:
    """A column's name on one line, without invisible characters around it."""
    return " ".join(name.split()).strip(INVISIBLE)


def _pairs(option: str, given: Iterable[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        if len(text) > MAX_OPTION_CHARACTERS:
            raise OptionError(option, f"is longer than {MAX_OPTION_CHARACTERS} characters")
        for pair in next(csv.reader([text.replace("\n", " ").replace("\r", " ")]), []):
            left, colon, right = pair.rpartition(":")
            left, right = clean_name(left), clean_name(right)
            if not colon or not left or not right:
                form = "FIELD:boolean" if option == "types" else "COLUMN:FIELD"
                raise OptionError(option, f"{pair[:100]!r} is not of the form {form}")
            pairs.append((left, right))
    return pairs
