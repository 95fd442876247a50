"""No other site acts for a person who is signed in: every form carries a token that only this page could give.

The cookie is SameSite=Strict besides, and a request that says it comes from another site is refused.
"""

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from fastapi import Request

from services.api.context import Api
from services.api.page import session
from services.api.page.session import Session
from services.api.problems import Problem

FIELD = "csrf"
VISIT = "vashsender-visit"
"""Cookie of a visitor who is not signed in yet: what the token of the sign-in form is bound to."""

_PURPOSE = b"vashsender csrf 1\0"
_OWN_SITE = ("same-origin", "none")


def new_visit() -> str:
    return secrets.token_urlsafe(18)


def bound_to(request: Request) -> str:
    """What the forms of a request are bound to: its session, else the visit. Empty for who has neither yet."""
    found: Session | None = request.state.session
    if found is not None:
        return found.token
    api: Api = request.app.state.api
    return getattr(request.state, "visit", "") or request.cookies.get(session.cookie_name(api.settings, VISIT), "")


def token(secret: bytes, bound_to: str) -> str:
    """The token of all forms of one session, or of one visit."""
    return urlsafe_b64encode(hmac.digest(secret, _PURPOSE + bound_to.encode(), "sha256")).decode().rstrip("=")


def check_site(request: Request) -> None:
    """Raises Problem 403 where the browser says that another site sends this (Fetch Metadata); before the body is
    read."""
    if request.headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        raise _refused("It comes from another site.")


def check(signing_keys: Sequence[bytes], bound_to: str, given: str) -> None:
    """Raises Problem 403 for a form that was not given to this session or visit."""
    if not bound_to:
        raise _refused("The browser sent no cookie; the page needs one to know you by.")
    if not any(hmac.compare_digest(token(secret, bound_to).encode(), given.encode()) for secret in signing_keys):
        raise _refused("Its token is missing or of another session. Reload the page, then try again.")


def _refused(why: str) -> Problem:
    return Problem(403, "forged", "This form was refused", why)
