"""What all pages have in common: who may see them, forms checked before a handler runs, headers, errors."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.background import BackgroundTask
from starlette.datastructures import FormData

from services.api.page import csrf, render, session
from services.api.page.session import Session
from services.api.page.upload_space import UploadSpace
from services.api.usecases.errors import NotFoundError
from services.api.web.audited import audited
from services.api.web.bodies import bounded, declared_bytes
from services.api.web.context import api_of
from services.api.web.problems import problem_for
from services.api.web.scopes import require, scope_of
from shared.scopes import Scope
from shared.settings import ApiSettings
from shared.sign_in import PATH as SIGN_IN
from shared.signing import Use

MAX_STRANGERS_FORM_BYTES = 4096
"""Of a form that is sent without a session."""
MAX_PLAIN_FORM_BYTES = 65_536
"""Of a form without files (application/x-www-form-urlencoded): its parser takes 0.1 s per megabyte."""
MAX_FORM_FIELDS = 50
MAX_FORM_FILES = 2
ADVICE = "Split the list: a campaign takes any number of imports."

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


class OpenRoute(APIRoute):
    """A page for everyone: the sign-in itself."""

    signed_in: ClassVar[bool] = False

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        needed = None
        if self.signed_in:
            [needed] = {scope_of(method, self.path) for method in self.methods or ()}

        async def answer(request: Request) -> Response:
            try:
                response = await self._guarded(request, handle, needed)
            except Exception as error:  # noqa: BLE001 - a person sees every error as a page
                response = _error_page(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return answer

    async def _guarded(self, request: Request, handle: Handler, needed: Scope | None) -> Response:
        request.state.session = None
        found = await session.current(request)
        request.state.session = found
        if found is not None:
            request.state.key = found.key
            require(needed, found.key.scopes)
        elif self.signed_in:
            return _to_sign_in(request)
        if request.method != "POST":
            return await handle(request)
        if found is None or not self.signed_in:
            return await self._posted(request, handle)
        return await audited(request, "page", found.key, needed, lambda: self._posted(request, handle))

    async def _posted(self, request: Request, handle: Handler) -> Response:
        csrf.check_site(request)
        api = api_of(request)
        limit = self._max_bytes(request, api.settings)
        space: UploadSpace = request.app.state.upload_space
        with space.reserve(min(declared_bytes(request, limit), limit)):
            async with bounded(request, limit, ADVICE, api) as posted:
                form = await posted.form(
                    max_fields=MAX_FORM_FIELDS, max_files=MAX_FORM_FILES, max_part_size=api.settings.max_content_bytes
                )
                try:
                    csrf.check(
                        api.settings.signing_keys(Use.FORM), csrf.bound_to(request), str(form.get(csrf.FIELD, ""))
                    )
                    request.state.form = form
                    return await handle(posted)
                finally:
                    await form.close()

    def _max_bytes(self, request: Request, settings: ApiSettings) -> int:
        if request.state.session is None:
            return MAX_STRANGERS_FORM_BYTES
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        return self.max_bytes(settings) if kind == "multipart/form-data" else MAX_PLAIN_FORM_BYTES

    def max_bytes(self, settings: ApiSettings) -> int:
        """How long a form with files or long texts may be."""
        return settings.max_content_bytes


class PageRoute(OpenRoute):
    """A page for people who are signed in. Others are sent to sign in first."""

    signed_in: ClassVar[bool] = True


class UploadRoute(PageRoute):
    """A page that takes a file of recipients."""

    def max_bytes(self, settings: ApiSettings) -> int:
        return settings.max_import_bytes


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


def _error_page(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = NotFoundError("page at this address")
    problem = problem_for(error, request.url.path)
    response = render.page(request, "error.html", status_code=problem.status, problem=problem.document)
    response.headers.update(problem.headers)
    return response
