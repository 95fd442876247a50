"""Every error of the HTTP API as a problem. Errors that no handler foresaw are caught by `web.observe`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from services.api.usecases.errors import InvalidError, RefusedError, invalid
from services.api.web.problems import HttpError, plain_problem, problem_for, problem_of
from services.api.web.wording import in_our_words, path_of
from shared.json_words import reason


class ProblemOut(BaseModel):
    """The answer to every request that fails. It may have further members, such as the `line` of a file."""

    type: str = Field(examples=["urn:vashsender:problem:wrong-state"])
    title: str = Field(examples=["The campaign is in the wrong state for this"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["A campaign that is paused does not allow pause. Possible now: resume, cancel."])
    errors: list[dict[str, Any]] = Field(
        [], examples=[[{"pointer": "#/from/email", "detail": "There must be exactly one @-sign."}]]
    )


class MalformedJsonError(HttpError):
    status = 400
    kind = "malformed"
    title = "The body is malformed"


class UnsupportedMediaTypeError(HttpError):
    status = 415
    kind = "unsupported-media-type"
    title = "This kind of body is not understood"


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Answers the errors of the app. `routes` are those whose methods a 405 lists."""
    app.state.routes = routes
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    for kind in (RefusedError, SQLAlchemyError, OSError):
        app.add_exception_handler(kind, _any)


async def _any(request: Request, error: Exception) -> Response:
    return problem_for(error, request.scope["path"]).response()


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, RefusedError):
        return problem_of(error.__cause__).response()  # raised while FastAPI read the body
    detail, headers = str(error.detail), error.headers
    if error.status_code == 400 and error.__cause__ is not None:
        return problem_of(_unreadable(error.__cause__)).response()
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path}. GET /openapi.json lists what there is."
    elif error.status_code == 405:
        headers = {"Allow": ", ".join(_allowed(request)) or (headers or {}).get("Allow", "")}
        detail = f"{request.method} is not possible here. Possible: {headers['Allow']}."
    return plain_problem(error.status_code, detail, headers).response()


def _allowed(request: Request) -> list[str]:
    """The methods of all routes with this path (RFC 9110, 15.5.6). The router names only those of the first."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        if route.path_regex.match(request.url.path):
            methods |= route.methods
    return sorted(methods)


async def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_of(_refusal(error)).response()


def _refusal(error: RequestValidationError) -> RefusedError:
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        return _malformed(str(error.body), found[0])
    if any(one["loc"] == ("body",) and isinstance(one.get("input"), bytes) for one in found):
        return UnsupportedMediaTypeError(
            "Send JSON, and say so: Content-Type: application/json.", headers={"Accept": "application/json"}
        )
    if [one["loc"] for one in found] == [("body",)] and found[0]["type"] == "missing":
        return invalid("#", "is missing; send a JSON object")
    return InvalidError([_one(one) for one in found])


def _one(found: Mapping[str, Any]) -> dict[str, Any]:
    where, *path = path_of(found)
    text = in_our_words(found)
    if where == "body":
        return {"pointer": "#" + "".join(f"/{_escaped(part)}" for part in path), "detail": text}
    name = ".".join(part for part in path if isinstance(part, str))  # without the position in a repeated one
    return {"parameter": f"{where} {name}".strip(), "detail": text}


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _unreadable(cause: BaseException) -> MalformedJsonError:
    """A body that could not be read as JSON at all."""
    if isinstance(cause, UnicodeDecodeError):
        line = cause.object.count(b"\n", 0, cause.start) + 1
        byte = cause.object[cause.start]
        return MalformedJsonError(
            f"The body is not UTF-8: line {line}, byte 0x{byte:02x}. Send JSON in UTF-8.", line=line
        )
    if isinstance(cause, RecursionError):
        return MalformedJsonError(
            "The body is nested too deeply. Send lists and objects inside each other only where the API has them."
        )
    return MalformedJsonError(
        "The body cannot be read as JSON: a number in it has too many digits, or its encoding is unknown."
    )


def _malformed(body: str, found: Mapping[str, Any]) -> MalformedJsonError:
    position = int(found["loc"][1])
    line = body.count("\n", 0, position) + 1
    column = position - body.rfind("\n", 0, position)
    why = reason(found["ctx"]["error"])
    return MalformedJsonError(f"The body is not JSON: line {line}, column {column}: {why}.", line=line, column=column)
