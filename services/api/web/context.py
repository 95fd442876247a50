"""What a request handler is given: the parts of this process, and the project it may touch."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.background import BackgroundTask

from services.api.context import Api
from services.api.usecases.actions import Accepted
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.quotas import Limits
from services.api.usecases.suppressions import Whose
from services.api.usecases.tenant import Tenant
from shared import logs
from shared.ledger.keys import Key

ANNOUNCE_SECONDS = 0.02
"""The broker usually confirms within 5 ms."""

log = logs.get()


@dataclass(frozen=True)
class Project:
    """The project whose key was presented, and the parts of this process."""

    api: Api
    key: Key

    @property
    def id(self) -> UUID:
        return self.key.project_id

    @property
    def tenant(self) -> Tenant:
        settings = self.api.settings
        limits = Limits(settings.tests_per_hour, settings.open_imports, settings.open_streams)
        needs_own_domain = settings.environment != "development"
        return Tenant(self.key, needs_own_domain, limits, self.hash_roots)

    @property
    def hash_roots(self) -> Sequence[bytes]:
        """What opens the secret of the hashes of erased addresses."""
        return self.api.settings.hash_roots

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A reading transaction."""
        return self.api.ledger.read()

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A writing transaction."""
        return self.api.ledger.write()

    def campaign(self, campaign_id: UUID) -> CampaignRef:
        return CampaignRef(self.tenant, campaign_id)

    async def announce(self, accepted: Accepted) -> BackgroundTask:
        """Logs an action and publishes its event. The answer waits ANNOUNCE_SECONDS for the broker at most, and the
        rest happens in the task that is returned: without the event, the dispatcher finds the campaign in the ledger at
        its next tick."""
        log.info("campaign.action", campaign_id=str(accepted.event.campaign_id), action=accepted.action)
        publishing = asyncio.ensure_future(self.api.publish(accepted.event))
        await asyncio.wait([publishing], timeout=ANNOUNCE_SECONDS)

        async def finish() -> None:
            await publishing

        return BackgroundTask(finish)


def whose(project: Project) -> Whose:
    """The suppressions of the project."""
    return Whose(project.id, project.hash_roots)


def api_of(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


def client_address(request: Request) -> str:
    """Where a request comes from: the connection's other end, or what a trusted proxy says."""
    return request.client.host if request.client else ""


async def _project(request: Request) -> Project:
    return Project(api_of(request), request.state.key)


async def _api(request: Request) -> Api:
    return api_of(request)


# Coroutines, because FastAPI calls plain functions on a thread.
ApiDep = Annotated[Api, Depends(_api)]
ProjectDep = Annotated[Project, Depends(_project)]
"""The route has authenticated the request before: see `rest.auth` and `page.route`."""


async def _campaign(campaign_id: UUID, project: ProjectDep) -> CampaignRef:
    return project.campaign(campaign_id)


CampaignDep = Annotated[CampaignRef, Depends(_campaign)]
"""The campaign in the path. It may not exist."""
