"""The API: the app, its parts, and its clock."""

from fastapi import FastAPI
from fastapi.routing import APIRoute

from services.api import (
    actions,
    campaigns,
    idempotency,
    imports,
    openapi,
    operations,
    problems,
    progress,
    recipients,
    suppressions,
    unsubscribe,
)
from services.api.context import Api
from services.api.housekeeping import TURN_SECONDS, Housekeeping
from services.api.observe import ApiMetrics, Observe
from services.api.page.mount import mount
from shared.health import Health
from shared.process import Process
from shared.settings import ApiSettings

PARTS = (campaigns, imports, recipients, actions, progress, suppressions, operations, unsubscribe)


async def body(process: Process[ApiSettings]) -> None:
    """Serves until the process is told to stop."""
    api = Api(
        process.settings, process.ledger, ApiMetrics(process.metrics.registry), process.bus.publish, process.stopping
    )
    housekeeping = Housekeeping(api, process.instance)
    await process.run(
        process.clock(housekeeping.turn, TURN_SECONDS, may_last=True),
        app=create_app(api, process.health),
        drain=housekeeping.farewell,
    )


def create_app(api: Api, health: Health) -> FastAPI:
    """The HTTP application. It opens nothing: `api` brings what is open."""
    # The pages that draw the contract load their scripts from elsewhere; /openapi.json needs nobody.
    app = FastAPI(docs_url=None, redoc_url=None)
    app.state.api = api
    openapi.install(app)
    problems.install(app, [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)])
    idempotency.install(app)
    for part in PARTS:
        app.include_router(part.router)
    mount(app)
    app.router.routes.extend(health.routes())
    app.add_middleware(Observe, metrics=api.metrics)
    return app
