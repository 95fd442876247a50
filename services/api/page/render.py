"""Templates into HTML. Data is escaped everywhere; an undefined name is an error."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.api.page import assets, csrf, session, words
from services.api.page.session import Session
from services.api.web.context import api_of
from shared.signing import Use

TEMPLATES = Path(__file__).with_name("templates")


def page(request: Request, template: str, *, status_code: int = 200, **context: Any) -> Response:
    """A whole page. A visitor who is not signed in gets a cookie to which forms are bound."""
    api = api_of(request)
    visitor: Session | None = request.state.session
    if visitor is None and not csrf.bound_to(request):
        request.state.visit = csrf.new_visit()
    content = html(template, session=visitor, csrf=form_token(request), path=request.url.path, **context)
    response = Response(content, status_code, media_type="text/html; charset=utf-8")
    if visitor is None:
        visit_cookie = session.cookie_name(api.settings, csrf.VISIT)
        session.set_cookie(response, api.settings, visit_cookie, csrf.bound_to(request), None)
    return response


def form_token(request: Request) -> str:
    """The token that this visitor's forms carry."""
    return csrf.token(api_of(request).settings.signing_keys(Use.FORM)[0], csrf.bound_to(request))


def html(template: str, **context: Any) -> str:
    """A template on its own: a whole page, or a part of one that is sent as an event."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: Mapping[str, Any] = {
        name: getattr(words, name) for name in ("number", "percent", "lasting", "moment", "plural")
    }
    environment.filters.update(filters)
    environment.globals.update(
        asset=assets.address,
        share=words.share,
        status_words=words.STATUS_WORDS,
        recipient_words=words.RECIPIENT_WORDS,
        bar_order=[status.value for status in words.RECIPIENT_WORDS if status not in words.AT_THE_END],
    )
    return environment
