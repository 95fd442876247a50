"""Errors as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Response
from starlette.exceptions import HTTPException

from services.api.usecases import errors
from services.api.usecases.errors import Quota, RefusedError
from shared import logs
from shared.ledger.database import in_a_line, is_unavailable

MEDIA_TYPE = "application/problem+json"
URN = "urn:vashsender:problem"

log = logs.get()


class HttpError(RefusedError):
    """An error that only HTTP knows."""

    status: ClassVar[int]

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail, **members)
        self.headers = headers or {}


STATUS: Mapping[type[RefusedError], int] = {
    errors.CutOffError: 400,
    errors.ErasedPersonError: 403,
    errors.ForeignDomainError: 403,
    errors.NotFoundError: 404,
    errors.TooSlowError: 408,
    errors.ConflictError: 409,
    errors.EventsGoneError: 410,
    errors.ForgottenError: 410,
    errors.TooLargeError: 413,
    errors.InvalidError: 422,
    errors.UnknownFieldError: 422,
    errors.MalformedFileError: 422,
    errors.LimitReachedError: 429,
    errors.InternalError: 500,
    errors.HashesSealedError: 503,
    errors.UnavailableError: 503,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to a request that was refused."""

    status: int
    document: Mapping[str, Any]
    headers: Mapping[str, str]

    def response(self) -> Response:
        # It may contain text of the client, even half characters (lone surrogates). ASCII can express them.
        return Response(json.dumps(self.document), self.status, self.headers, MEDIA_TYPE)


def problem_of(error: RefusedError) -> Problem:
    """The answer that says what the error says."""
    status = status_of(error)
    document = {
        "type": f"{URN}:{error.kind}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        **error.members,
    }
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, errors.LimitReachedError):
        headers |= {"Retry-After": str(error.quota.reset_seconds), **rate_limit_headers(error.quota)}
    if isinstance(error, errors.TooLargeError | errors.TooSlowError):
        headers["Connection"] = "close"  # the rest of the body is not read
    return Problem(status, document, headers)


def rate_limit_headers(quota: Quota) -> dict[str, str]:
    """What is left of a limit (draft-ietf-httpapi-ratelimit-headers-06, as most libraries send and read it)."""
    return {
        "RateLimit-Limit": str(quota.limit),
        "RateLimit-Remaining": str(quota.left),
        "RateLimit-Reset": str(quota.reset_seconds),
    }


def status_of(error: RefusedError) -> int:
    """The status code of an error."""
    if isinstance(error, HttpError):
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def plain_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """A problem that is named after its status code."""
    title = HTTPStatus(status).phrase
    kind = title.lower().replace(" ", "-")
    document = {"type": f"{URN}:{kind}", "title": title, "status": status, "detail": detail}
    return Problem(status, document, headers or {})


def problem_for(error: Exception, path: str) -> Problem:
    """The answer to whatever a handler raised. Logs what is not the client's fault."""
    if isinstance(error, RefusedError):
        return problem_of(error)
    if isinstance(error, HTTPException):
        return plain_problem(error.status_code, str(error.detail), error.headers)
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), path=path)
        return problem_of(errors.UnavailableError(errors.DATABASE_AWAY))
    log.error("request.failed", path=path, exc_info=error)
    return problem_of(errors.InternalError())
