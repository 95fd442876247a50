"""Forms as checked values."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from services.api.web.problems import HttpError
from services.api.web.wording import in_our_words, path_of

M = TypeVar("M", bound=BaseModel)


class FormError(HttpError):
    status = 422
    kind = "invalid-form"
    title = "Please check the form"

    def __init__(self, invalid: ValidationError) -> None:
        found = invalid.errors()
        errors = [
            {"pointer": "#" + "".join(f"/{part}" for part in path_of(one)), "detail": in_our_words(one)}
            for one in found
        ]
        name = ", ".join(str(part).replace("_", " ") for part in path_of(found[0]))
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{name}: {errors[0]['detail']}{more}".lstrip(": "), errors=errors)


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
