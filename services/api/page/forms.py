"""Forms as checked values."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from services.api.web.problems import HttpError

M = TypeVar("M", bound=BaseModel)


class FormError(HttpError):
    status = 422
    kind = "invalid-form"
    title = "Please check the form"

    def __init__(self, invalid: ValidationError) -> None:
        errors = [
            {
                "pointer": "#" + "".join(f"/{part}" for part in problem["loc"]),
                "detail": problem["msg"].removeprefix("Value error, "),
            }
            for problem in invalid.errors()
        ]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]['detail']}{more}", errors=errors)


def text(form: FormData, name: str) -> str:
    """A field as text with line ends of one character; empty if it is absent."""
    value = form.get(name, "")
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""


def file(form: FormData, name: str) -> UploadFile | None:
    """The file that was chosen; None if none was."""
    value = form.get(name)
    return value if isinstance(value, UploadFile) and (value.filename or value.size) else None


def validated(model: type[M], values: dict[str, Any]) -> M:
    """The checked values. Raises FormError whose errors point to the members that are wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as invalid:
        raise FormError(invalid) from None
