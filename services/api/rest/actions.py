"""`/v1/campaigns/{id}/...`: send, pause, resume, cancel, retry-failed, resolve-unknown, test. Each answers 202."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, Once, OnceDep
from services.api.shapes.campaigns import (
    CampaignSending,
    CampaignSummary,
    ReopenIn,
    ResolveIn,
    ResumeIn,
    SendIn,
    TestIn,
)
from services.api.usecases import actions
from services.api.usecases.actions import (
    RESEND_UNKNOWN,
    RESOLVE_AS_SENT,
    RETRY_FAILED,
    Accepted,
    Deadline,
    SendSettings,
    Settle,
)
from services.api.usecases.campaign_row import CampaignRef
from services.api.web.context import CampaignDep, Project, ProjectDep
from services.api.web.domain_checks import checks_of
from services.api.web.problems import rate_limit_headers

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["actions"], route_class=JsonRoute, dependencies=[key_required]
)


class Acting:
    """One request to act on a campaign."""

    def __init__(self, campaign: CampaignDep, project: ProjectDep, once: OnceDep) -> None:
        self.campaign: CampaignRef = campaign
        self.project: Project = project
        self._once: Once = once

    @property
    def deliver_within_seconds(self) -> float:
        return self.project.api.settings.deliver_within_seconds

    def deadline(self, body: ReopenIn) -> Deadline:
        return Deadline(body.deliver_by, self.deliver_within_seconds)

    async def in_one_transaction(self, act: Callable[[AsyncConnection], Awaitable[Accepted]]) -> Response:
        """Acts, and stores the answer in the same transaction."""
        async with self.project.write() as connection:
            accepted = await act(connection)
            answer = await self._once.keep(connection, Answer(202, accepted.summary))
        return answer.response(await self.project.announce(accepted))

    async def settled(self, act: Callable[[Settle], Awaitable[Accepted]], location: str = "") -> Response:
        """Acts in several transactions; the answer is stored in the last. `{id}` in `location` is the campaign of the
        result."""

        def answer(accepted: Accepted) -> Answer:
            limited = rate_limit_headers(accepted.quota) if accepted.quota else {}
            headers = {"Location": location.format(id=accepted.summary.id)} if location else {}
            return Answer(202, accepted.summary, headers | limited)

        async def settle(connection: AsyncConnection, accepted: Accepted) -> None:
            await self._once.keep(connection, answer(accepted))

        accepted = await act(settle)
        return answer(accepted).response(await self.project.announce(accepted))


ActingDep = Annotated[Acting, Depends()]


@router.post("/send", status_code=202, response_model=CampaignSending, summary="Send, now or at a given time")
async def send(acting: ActingDep, request: Request, body: Annotated[SendIn, Body()] = SendIn()) -> Response:
    """202 means that the request is in the ledger and will be carried out, even if the broker or this process fails.
    `warnings` also say what receivers will hold against its domains."""
    ledger, campaign = acting.project.api.ledger, acting.campaign
    check = checks_of(request).for_sending(acting.project.api)
    settings = SendSettings(acting.deliver_within_seconds, acting.project.api.settings.groups, check)
    return await acting.settled(lambda settle: actions.send(ledger, campaign, body, settings, settle))


@router.post("/pause", status_code=202, response_model=CampaignSummary, summary="Pause")
async def pause(acting: ActingDep) -> Response:
    """No email starts later than one second after this answer. Emails in flight are finished."""
    return await acting.in_one_transaction(lambda connection: actions.pause(connection, acting.campaign))


@router.post("/resume", status_code=202, response_model=CampaignSummary, summary="Resume")
async def resume(acting: ActingDep, body: Annotated[ResumeIn, Body()] = ResumeIn()) -> Response:
    """If a breaker has paused the campaign, say what happens to the recipients that were refused."""
    return await acting.in_one_transaction(lambda connection: actions.resume(connection, acting.campaign, body.refused))


@router.post("/cancel", status_code=202, response_model=CampaignSummary, summary="Cancel what has not been sent")
async def cancel(acting: ActingDep) -> Response:
    """What was sent stays sent; the rest becomes `cancelled`. This cannot be undone. To get rid of a draft, delete
    it."""
    return await acting.in_one_transaction(lambda connection: actions.cancel(connection, acting.campaign))


@router.post("/retry-failed", status_code=202, response_model=CampaignSummary, summary="Send to the failed again")
async def retry_failed(acting: ActingDep, body: Annotated[ReopenIn, Body()] = ReopenIn()) -> Response:
    """Every `failed` recipient becomes `pending` again, with all of its attempts. A closed campaign opens again."""
    deadline = acting.deadline(body)
    return await acting.in_one_transaction(
        lambda connection: actions.reopen(connection, acting.campaign, RETRY_FAILED, deadline)
    )


@router.post("/resolve-unknown", status_code=202, response_model=CampaignSummary, summary="Settle unknown recipients")
async def resolve_unknown(acting: ActingDep, body: ResolveIn) -> Response:
    """`unknown` means that the relay did not reply after the message was sent. Only a person can decide what to
    assume."""
    wanted, deadline = RESOLVE_AS_SENT if body.resolve_as == "sent" else RESEND_UNKNOWN, acting.deadline(body)
    return await acting.in_one_transaction(
        lambda connection: actions.reopen(connection, acting.campaign, wanted, deadline)
    )


@router.post("/test", status_code=202, response_model=CampaignSummary, summary="Send a test")
async def test(acting: ActingDep, request: Request, body: TestIn) -> Response:
    """Creates a small campaign with the same message and sends it. The answer is that campaign. It counts under the
    campaign's limits and the project's `tests_per_hour`; what is left of that is in `RateLimit-Remaining`."""
    ledger, within = acting.project.api.ledger, acting.deliver_within_seconds
    location = request.url.path.replace(f"{acting.campaign.id}/test", "{id}")
    return await acting.settled(
        lambda settle: actions.send_test(ledger, acting.campaign, body.recipients, within, settle), location
    )
