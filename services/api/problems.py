"""Errors as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException as StarletteHTTPException

from shared import logs
from shared.ledger.database import in_a_line, is_unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

log = logs.get()


class ProblemOut(BaseModel):
    """What every error answers with. More members may stand beside these, such as `line` of a refused import."""

    type: str = Field(examples=["urn:vashsender:problem:wrong-state"])
    title: str = Field(examples=["The campaign is in the wrong state for this"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["A finished campaign cannot be paused. Possible now: retry-failed, test."])
    errors: list[dict[str, Any]] = Field(
        [], examples=[[{"pointer": "#/from/email", "detail": "There must be exactly one @-sign."}]]
    )


class Problem(HTTPException):
    """An answer that is an error. `kind` makes the type; `members` stand beside the standard ones."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.document = {
            "type": f"urn:vashsender:problem:{kind}",
            "title": title,
            "status": status,
            "detail": detail,
            **({"errors": list(errors)} if errors else {}),
            **members,
        }

    def response(self) -> Response:
        # What a client sent may stand in it, half characters (lone surrogates) included; ASCII takes them all.
        return Response(json.dumps(self.document), self.status_code, self.headers, MEDIA_TYPE)


def not_found(what: str) -> Problem:
    return Problem(404, "not-found", "Not found", f"There is no {what} here. Check the address.")


def invalid(pointer: str, detail: str, **members: Any) -> Problem:
    """422 about one member of the body; `pointer` is a JSON pointer (RFC 6901) as a fragment."""
    return Problem(
        422,
        "invalid",
        "The request is not valid",
        f"{pointer}: {detail}",
        errors=[{"pointer": pointer, "detail": detail, **members}],
    )


def too_large(limit: int, advice: str) -> Problem:
    return Problem(
        413,
        "too-large",
        "The body is too large",
        f"The body exceeds {limit} bytes. {advice}",
        headers={"Connection": "close"},
        limit_bytes=limit,
    )


def unavailable(detail: str) -> Problem:
    return Problem(
        503,
        "unavailable",
        "Not available now",
        detail,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


DATABASE_AWAY = "The database cannot be reached now. Nothing was changed unless a later look says so; try again soon."


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Makes every error of the app a problem. What nobody foresaw is caught by `services.api.observe`."""
    app.state.routes = routes
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(OSError, _database)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, Problem):
        return error.response()
    title = HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    headers = error.headers
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path}. GET /openapi.json tells what there is."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_allowed(request)) or (error.headers or {}).get("Allow", "")}
        detail = f"{request.method} is not possible here. Possible: {headers['Allow']}."
    kind = title.lower().replace(" ", "-")
    return Problem(error.status_code, kind, title, detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """The methods of all routes with this path (RFC 9110, 15.5.6): the router names only the first one's."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        if route.path_regex.match(request.url.path):
            methods |= route.methods
    return sorted(methods)


async def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if problems and problems[0]["type"] == "json_invalid":
        return _malformed_json(str(error.body), problems[0]).response()
    if any(problem["loc"] == ("body",) and isinstance(problem.get("input"), bytes) for problem in problems):
        return _NOT_JSON.response()
    errors = [_one(problem) for problem in problems]
    where = errors[0].get("pointer") or errors[0].get("parameter", "")
    detail = f"{where}: {errors[0]['detail']}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
    return Problem(422, "invalid", "The request is not valid", detail, errors=errors).response()


def _one(problem: Mapping[str, Any]) -> dict[str, Any]:
    where, *path = problem["loc"]
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        text = "is not known here; remove it, or check its spelling"
    elif problem["type"] == "missing":
        text = "is missing"
    if where == "body":
        return {"pointer": "#" + "".join(f"/{_escaped(part)}" for part in path), "detail": text}
    return {"parameter": f"{where} {'.'.join(map(str, path))}".strip(), "detail": text}


_NOT_JSON = Problem(
    415,
    "unsupported-media-type",
    "This kind of body is not understood",
    "Send JSON, and say so: Content-Type: application/json.",
    headers={"Accept": "application/json"},
)


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _malformed_json(body: str, problem: Mapping[str, Any]) -> Problem:
    position = int(problem["loc"][1])
    line = body.count("\n", 0, position) + 1
    column = position - body.rfind("\n", 0, position)
    reason = problem.get("ctx", {}).get("error", problem["msg"])
    detail = f"The body is not JSON: line {line}, column {column}: {reason}."
    return Problem(400, "malformed", "The body is malformed", detail, line=line, column=column)


async def _database(request: Request, error: Exception) -> Response:
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), path=request.url.path)
        return unavailable(DATABASE_AWAY).response()
    return unforeseen(request.scope["path"], error).response()


def unforeseen(path: str, error: Exception) -> Problem:
    """Logs an error that is a mistake of ours and tells the client so."""
    log.error("request.failed", path=path, exc_info=error)
    return Problem(500, "internal", "Something went wrong here", "This is a mistake of the server; its log says more.")
