"""From what a form holds to what the API takes."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from services.api.context import Api
from services.api.idempotency import Once
from services.api.problems import Problem

M = TypeVar("M", bound=BaseModel)


def text(form: FormData, name: str) -> str:
    """A field as text with the line ends of this side; empty where it is absent."""
    value = form.get(name, "")
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""


def file(form: FormData, name: str) -> UploadFile | None:
    """A file that was chosen; None where none was."""
    value = form.get(name)
    return value if isinstance(value, UploadFile) and (value.filename or value.size) else None


def validated(model: type[M], values: dict[str, Any]) -> M:
    """The body of a request to the API. Raises Problem 422 whose errors point to the members."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = [
            {
                "pointer": "#" + "".join(f"/{part}" for part in problem["loc"]),
                "detail": problem["msg"].removeprefix("Value error, "),
            }
            for problem in error.errors()
        ]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Problem(
            422, "invalid", "The form needs another look", f"{errors[0]['detail']}{more}", errors=errors
        ) from None


def each_time(api: Api, project_id: Any) -> Once:
    """A request without an Idempotency-Key."""
    return Once(api, project_id, None)
