"""Adds the HTTP API to the app."""

from fastapi import FastAPI
from fastapi.routing import APIRoute

from services.api.rest import (
    actions,
    audit,
    campaigns,
    domain_checks,
    erasures,
    errors,
    events,
    hooks,
    idempotency,
    imports,
    limits,
    openapi,
    operations,
    previews,
    progress,
    recipients,
    reports,
    suppressions,
    tenants,
    unsubscribe,
    webhooks,
)
from services.api.web.domain_checks import DomainChecks
from services.api.web.sns import Sns

PARTS = (
    campaigns,
    imports,
    recipients,
    previews,
    actions,
    progress,
    events,
    webhooks,
    reports,
    hooks,
    suppressions,
    erasures,
    limits,
    tenants,
    domain_checks,
    audit,
    operations,
    unsubscribe,
)


def mount(app: FastAPI) -> None:
    """Adds `/v1`, `/u` and `/openapi.json`, and makes every error of the app a problem."""
    openapi.install(app)
    errors.install(app, [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)])
    idempotency.install(app)
    app.state.domain_checks = DomainChecks()
    app.state.sns = Sns()
    for part in PARTS:
        app.router.routes.extend(part.router.routes)  # include_router would look up the route of a request twice
