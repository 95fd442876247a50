"""The API: the app, its parts, and its clock."""

from fastapi import FastAPI

from services.api import actions, campaigns, idempotency, imports, problems
from services.api.context import Api
from services.api.observe import ApiMetrics, Observe
from shared.health import Health
from shared.process import Process
from shared.settings import ApiSettings


async def body(process: Process[ApiSettings]) -> None:
    """Serves until the process is told to stop."""
    api = Api(
        process.settings, process.ledger, ApiMetrics(process.metrics.registry), process.bus.publish, process.stopping
    )
    await process.run(app=create_app(api, process.health))


def create_app(api: Api, health: Health) -> FastAPI:
    """The HTTP application. It opens nothing: `api` brings what is open."""
    app = FastAPI(title="VashSender", version="1", docs_url=None, redoc_url=None)
    app.state.api = api
    problems.install(app)
    idempotency.install(app)
    for module in (campaigns, actions, imports):
        app.include_router(module.router)
    app.router.routes.extend(health.routes())
    app.add_middleware(Observe, metrics=api.metrics)
    return app
