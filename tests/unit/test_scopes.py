"""Every route declares the scope it needs, in one place."""

import pytest
from fastapi.routing import APIRoute

from services.api.page import mount as page
from services.api.page.route import OpenRoute, PageRoute
from services.api.rest import mount as rest
from services.api.rest.auth import KeyRoute
from services.api.web.scopes import SCOPES, MissingScopeError, require, scope_of
from shared.errors import DataError
from shared.scopes import EVERY_SCOPE, Scope, parse_scopes

OPEN = {"GET /u/{token}", "HEAD /u/{token}", "POST /u/{token}", "POST /hooks/ses/{token}", "GET /static/{name}"}
"""Routes that strangers need, and that show nothing of a project."""


def routes() -> dict[str, APIRoute]:
    routers = [*(part.router for part in rest.PARTS), *page.ROUTERS]
    return {
        f"{method} {route.path}": route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def test_every_route_has_a_scope_or_is_open_on_purpose() -> None:
    found = routes()
    guarded = {name for name, route in found.items() if isinstance(route, KeyRoute | PageRoute)}
    assert guarded == set(SCOPES)
    sign_in = {name for name, route in found.items() if type(route) is OpenRoute}
    assert all(name.partition(" ")[2].startswith("/sign-in") for name in sign_in)
    assert set(found) - guarded - sign_in == OPEN


def test_a_route_without_a_place_does_not_start() -> None:
    with pytest.raises(LookupError, match="needs a place"):
        KeyRoute("/v1/new", lambda: None, methods=["GET"])


def test_what_changes_something_needs_more_than_reading() -> None:
    changing = {name for name in SCOPES if not name.startswith("GET ")}
    weak = {name for name in changing if scope_of(*name.split(" ")) in (None, Scope.CAMPAIGNS_READ)}
    own = {"POST /sign-out", "DELETE /v1/sessions/{session_id}", "POST /access/end-session"}
    looks = {"POST /v1/campaigns/{campaign_id}/preview", "POST /v1/domains/{domain}/check"}
    assert weak == own | looks


def test_the_machinery_is_for_operators() -> None:
    for path in ("/v1/services", "/v1/queues", "/v1/batches", "/services", "/services/live"):
        assert scope_of("GET", path) is Scope.OPERATOR


def test_a_refusal_names_the_scope() -> None:
    require(Scope.CAMPAIGNS_READ, frozenset({Scope.CAMPAIGNS_READ}))
    require(None, frozenset())
    with pytest.raises(
        MissingScopeError, match="needs the scope campaigns:write; the key has campaigns:read"
    ) as caught:
        require(Scope.CAMPAIGNS_WRITE, frozenset({Scope.CAMPAIGNS_READ}))
    assert caught.value.status == 403
    assert 'scope="campaigns:write"' in caught.value.headers["WWW-Authenticate"]


def test_scopes_are_read_from_their_names() -> None:
    assert parse_scopes([scope.value for scope in EVERY_SCOPE]) == EVERY_SCOPE
    with pytest.raises(DataError, match="the scopes are campaigns:read, "):
        parse_scopes(["campaigns"])
