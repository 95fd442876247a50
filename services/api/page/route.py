"""What every page has in common: who may see it, forms that are checked before a handler runs, headers, errors."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.background import BackgroundTask
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from services.api.context import Api
from services.api.page import csrf, render, session
from services.api.page.session import Session
from services.api.problems import DATABASE_AWAY, Problem, not_found, too_large, unavailable, unforeseen
from shared import logs
from shared.ledger.database import in_a_line, is_unavailable
from shared.sign_in import PATH as SIGN_IN

MAX_FORM_FIELDS = 50
MAX_FORM_FILES = 2

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
log = logs.get()


class OpenRoute(APIRoute):
    """A page for everybody: the sign-in itself."""

    signed_in: ClassVar[bool] = False

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await self._guarded(request, handle)
            except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in a page
                response = _error_page(request, _problem(request, error))
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return answer

    async def _guarded(self, request: Request, handle: Handler) -> Response:
        request.state.session = None
        found = await session.current(request)
        request.state.session = found
        if found is not None:
            request.state.project_id = found.key.project_id
        elif self.signed_in:
            return _to_sign_in(request)
        if request.method != "POST":
            return await handle(request)
        csrf.check_site(request)
        api: Api = request.app.state.api
        bounded = Request(request.scope, _bounded(request.receive, self._max_bytes(api)))
        form = await bounded.form(
            max_fields=MAX_FORM_FIELDS, max_files=MAX_FORM_FILES, max_part_size=api.settings.max_content_bytes
        )
        try:
            csrf.check(api.settings.secret_keys, csrf.bound_to(request), str(form.get(csrf.FIELD, "")))
            request.state.form = form
            return await handle(bounded)
        finally:
            await form.close()

    def _max_bytes(self, api: Api) -> int:
        return api.settings.max_content_bytes


class PageRoute(OpenRoute):
    """A page for who is signed in; others are sent to sign in first."""

    signed_in: ClassVar[bool] = True


class UploadRoute(PageRoute):
    """A page that takes a file of recipients."""

    def _max_bytes(self, api: Api) -> int:
        return api.settings.max_import_bytes


def _session(request: Request) -> Session:
    found: Session = request.state.session
    return found


def _form(request: Request) -> FormData:
    form: FormData = request.state.form
    return form


SessionDep = Annotated[Session, Depends(_session)]
FormDep = Annotated[FormData, Depends(_form)]
"""The form that was posted; its token has been checked."""


def see_other(path: str, background: BackgroundTask | None = None) -> Response:
    """To another page after a form was acted on, so that a reload does not repeat it."""
    return RedirectResponse(path, 303, background=background)


def _to_sign_in(request: Request) -> Response:
    if "text/event-stream" in request.headers.get("accept", ""):
        return PlainTextResponse("The session is over.", 401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    path = SIGN_IN if request.method != "GET" or wanted == "/" else f"{SIGN_IN}?next={quote(wanted)}"
    if request.headers.get("hx-request"):
        # A script cannot see a redirect, and would put the sign-in into a corner of the page.
        return Response(headers={"HX-Redirect": SIGN_IN})
    return RedirectResponse(path, 303)


def _problem(request: Request, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return not_found("page at this address")
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", "This was not possible", str(error.detail))
    if is_unavailable(error):
        log.warning("database.unreachable", error=in_a_line(error), path=request.url.path)
        return unavailable(DATABASE_AWAY)
    return unforeseen(request.url.path, error)


def _error_page(request: Request, problem: Problem) -> Response:
    response = render.page(request, "error.html", status_code=problem.status_code, problem=problem.document)
    response.headers.update(problem.headers or {})
    return response


def _bounded(receive: Receive, limit: int) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(limit, "Split the list: a campaign takes any number of imports.")
        return message

    return bounded
