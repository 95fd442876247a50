"""What a request handler is given: the parts of this process, and whose key was presented."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from starlette.background import BackgroundTask

from services.api.observe import ApiMetrics
from shared import logs
from shared.events import CampaignRequested, Event
from shared.ledger.database import Ledger
from shared.settings import ApiSettings

log = logs.get()


@dataclass(frozen=True)
class Api:
    """The parts handlers work with. `stopping` is set when the process is told to stop. `importing`: imports
    that arrive here now. `undo_later`: those that failed while the database was away, and why."""

    settings: ApiSettings
    ledger: Ledger
    metrics: ApiMetrics
    publish: Callable[[Event], Awaitable[bool]]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    importing: set[int] = field(default_factory=set)
    undo_later: dict[int, str] = field(default_factory=dict)

    def announce(self, campaign_id: UUID, action: str) -> BackgroundTask:
        """Tells the log and the dispatcher, after the answer has left. The ledger holds the campaign already, so a
        broker that is away delays its first turn by at most a clock turn, and the client not at all."""

        async def tell() -> None:
            log.info("campaign.action", campaign_id=str(campaign_id), action=action)
            await self.publish(CampaignRequested(campaign_id=campaign_id))

        return BackgroundTask(tell)


def _api(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


def _project(request: Request) -> UUID:
    project: UUID = request.state.project_id
    return project


ApiDep = Annotated[Api, Depends(_api)]
ProjectDep = Annotated[UUID, Depends(_project)]
"""The project of the key that was presented: see services.api.auth."""
