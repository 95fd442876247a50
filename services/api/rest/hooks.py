"""`/hooks/ses/{token}`: Amazon SES tells through SNS what came back. There is no key: the token names the project, and
the signature of SNS is the proof."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from services.api.shapes.reports import TakenOut
from services.api.usecases import reports
from services.api.usecases.errors import NotFoundError, invalid
from services.api.web.bodies import bounded
from services.api.web.context import ApiDep, api_of
from services.api.web.problems import HttpError
from services.api.web.sns import NotSignedError, Sns
from shared import logs
from shared.signing import TokenError, Use

MOST_BYTES = 1_000_000
"""SNS sends at most 256 KB."""

router = APIRouter(tags=["feedback"])

log = logs.get()


class WrongSignatureError(HttpError):
    status = 401
    kind = "wrong-signature"
    title = "SNS has not signed this"


class TakenEvents(BaseModel):
    data: list[TakenOut] = Field(description="One for each recipient of the event.")


@router.post("/hooks/ses/{token}", summary="Take an event of Amazon SES")
async def take(token: Annotated[str, Path(max_length=100)], request: Request, api: ApiDep) -> TakenEvents:
    """Bounces, complaints and delays. Others are answered, and change nothing."""
    try:
        project_id = reports.hook_project(api.settings.signing_keys(Use.SES), token)
    except TokenError:
        raise NotFoundError("such hook") from None
    async with bounded(request, MOST_BYTES, "SNS sends at most 256 KB.", api_of(request)) as posted:
        message = _object(await posted.body())
    if message is None:
        raise invalid("#", "is no JSON object, as SNS sends them")
    try:
        sns: Sns = request.app.state.sns
        await sns.verify(message)
        if message["Type"] != "Notification":
            if message["Type"] == "SubscriptionConfirmation":
                await sns.confirm(message)
                log.info("ses.subscribed", project_id=str(project_id), topic=str(message.get("TopicArn"))[:200])
            return TakenEvents(data=[])
    except NotSignedError as error:
        api.metrics.wrong_signatures.inc()
        raise WrongSignatureError(f"{error}.") from None
    secrets = api.settings.signing_keys(Use.UNSUBSCRIBE)
    event = _object(str(message.get("Message", "")))  # SES tells a new topic in plain words that it works
    return TakenEvents(data=await reports.take_event(api.ledger, secrets, project_id, event or {}))


def _object(said: str | bytes) -> dict[str, Any] | None:
    """None: it is no JSON object."""
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
