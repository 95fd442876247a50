"""Protects the forms of signed-in people: no other site can act for them, because every form carries a token that only
this page could give.

The cookie is also SameSite=Strict, and a request that says it comes from another site is refused.
"""

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from fastapi import Request

from services.api.page import session
from services.api.page.session import Session
from services.api.web.context import api_of
from services.api.web.problems import HttpError
from shared import signing

FIELD = "csrf"
VISIT = "vashsender-visit"
"""Cookie of a visitor who is not signed in yet. It binds the token of the sign-in form."""

_PURPOSE = b"vashsender csrf 1\0"
_OWN_SITE = ("same-origin", "none")


class ForgedError(HttpError):
    status = 403
    kind = "forged"
    title = "This form was refused"


def new_visit() -> str:
    return secrets.token_urlsafe(18)


def bound_to(request: Request) -> str:
    """What the forms of a request are bound to: its session, else the visit. Empty if it has neither yet."""
    found: Session | None = request.state.session
    if found is not None:
        return found.token
    cookie = session.cookie_name(api_of(request).settings, VISIT)
    return getattr(request.state, "visit", "") or request.cookies.get(cookie, "")


def token(secret: bytes, bound_to: str) -> str:
    """The token of all forms of one session, or of one visit."""
    return urlsafe_b64encode(signing.mac(secret, _PURPOSE, bound_to.encode())).decode().rstrip("=")


def check_site(request: Request) -> None:
    """Raises ForgedError if the browser says that another site sends this (Fetch Metadata). Needs no body."""
    if request.headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        raise ForgedError("It comes from another site.")


def check(signing_keys: Sequence[bytes], bound_to: str, given: str) -> None:
    """Raises ForgedError for a form that was not given to this session or visit."""
    if not bound_to:
        raise ForgedError("The browser sent no cookie. The page needs one to recognise you.")
    if not any(signing.are_equal(token(secret, bound_to), given) for secret in signing_keys):
        raise ForgedError("Its token is missing or belongs to another session. Reload the page, then try again.")
