"""The API: campaigns over HTTP, and the page."""

from fastapi import FastAPI

from services.api.context import Api
from services.api.housekeeping import ERASE_SECONDS, JUDGE_SECONDS, TICK_SECONDS, Housekeeping
from services.api.metrics import ApiMetrics
from services.api.page import mount as page
from services.api.prewarm import accept_nothing
from services.api.rest import mount as rest
from services.api.retention import RETENTION_SECONDS, Retention
from services.api.web.headers import OneMeaning
from services.api.web.hosts import AllowedHosts
from services.api.web.observe import Observe
from shared import logs
from shared.health import Health
from shared.ledger.prewarm import prewarm
from shared.process import Process
from shared.settings import ApiSettings

CONNECTIONS = 2
"""Most of the time no more are busy."""

log = logs.get()


async def serve(process: Process[ApiSettings]) -> None:
    """Builds the parts and runs them until the process stops."""
    metrics = ApiMetrics(process.metrics.registry)
    api = Api(process.settings, process.ledger, metrics, process.bus.publish, process.stopping)
    housekeeping = Housekeeping(api, process.instance)
    retention = Retention(api, process.instance)
    if process.settings.environment == "production" and not process.has_health_port:
        log.warning("metrics.public", advice="set VASHSENDER_HEALTH_PORT, so that strangers cannot read /metrics")
    # It takes campaigns and unsubscribes without the broker: the dispatcher finds them in the ledger.
    process.health.optional.add("broker")

    await prewarm(process.ledger, accept_nothing, CONNECTIONS)
    await process.run(
        process.clock(housekeeping.tick, TICK_SECONDS, may_last=True),
        process.clock(housekeeping.erase, ERASE_SECONDS, may_last=True),
        process.clock(housekeeping.judge_complaints, JUDGE_SECONDS, may_last=True),
        process.clock(retention.tick, RETENTION_SECONDS, may_last=True),
        app=AllowedHosts(create_app(api, process.health, shared_port=not process.has_health_port), process.settings),
        drain=housekeeping.farewell,
    )


def create_app(api: Api, health: Health, *, shared_port: bool = True) -> FastAPI:
    """The HTTP application. It opens nothing: `api` brings what is open. `shared_port`: machinery has no other."""
    # FastAPI's pages of the contract load their scripts from elsewhere. Its telemetry, which nothing
    # here collects, would look at each request whether something does.
    app = FastAPI(docs_url=None, redoc_url=None, telemetry={"tracing": False, "metrics": False, "logs": False})
    app.state.api = api
    rest.mount(app)
    page.mount(app)
    app.router.routes.extend(health.routes() if shared_port else health.public_routes())
    app.add_middleware(OneMeaning)
    app.add_middleware(Observe, metrics=api.metrics)
    return app
