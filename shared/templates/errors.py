"""What can be wrong with a message's content, as errors that say where."""

from typing import Literal

from shared.errors import DataError

Part = Literal["subject", "html", "text"]


class TemplateError(DataError):
    """The content cannot be used: says the part, the line and the column (both from 1), and how to mend it."""

    def __init__(self, part: Part, line: int, column: int, message: str) -> None:
        super().__init__(f"{part}, line {line}, column {column}: {message}")
        self.part = part
        self.line = line
        self.column = column
        self.message = message


class RenderError(DataError):
    """One recipient's values do not fit the content. Permanent for that recipient; never names the value itself."""

    def __init__(self, part: Part, field: str, message: str) -> None:
        super().__init__(f"{part}: {message}")
        self.part = part
        self.field = field
        self.message = message


class MissingFieldError(RenderError):
    """A recipient lacks a value that the content needs."""

    def __init__(self, part: Part, field: str) -> None:
        super().__init__(
            part,
            field,
            f"this recipient has no value for {field!r}; import one, or write {{{{ {field}|default('...') }}}}",
        )
