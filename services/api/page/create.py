"""A new campaign in the browser: the draft, and recipients from a file. Both are the API's own requests."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from services.api import campaigns, imports
from services.api.context import Api, ApiDep, ProjectDep
from services.api.page import campaign, render
from services.api.page.forms import each_time, file, text, validated
from services.api.page.route import FormDep, PageRoute, UploadRoute, see_other
from services.api.problems import Problem
from services.api.shapes import CampaignIn

FIELDS = ("name", "from_email", "from_name", "subject", "html", "text", "emails_per_second")
_FIELD_OF = {"#/from/email": "from_email", "#/from/name": "from_name", "#/from": "from_email"}
_KINDS = {".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson", ".json": "application/json"}
READ_BYTES = 256 * 1024

router = APIRouter(include_in_schema=False, route_class=PageRoute)
uploads = APIRouter(include_in_schema=False, route_class=UploadRoute)


@router.get("/campaigns/new")
async def ask(request: Request) -> Response:
    return _form(request, dict.fromkeys(FIELDS, ""), None)


@uploads.post("/campaigns")
async def create(request: Request, form: FormDep, api: ApiDep, project_id: ProjectDep) -> Response:
    given = {name: text(form, name) for name in FIELDS}
    try:
        answer = await campaigns.create(_body(given), request, api, project_id, each_time(api, project_id))
    except Problem as problem:
        return _form(request, given, problem)
    campaign_id = UUID(orjson.loads(answer.body)["id"])
    return await _import(request, api, project_id, campaign_id, form, "created")


@uploads.post("/campaigns/{campaign_id}/import")
async def import_recipients(
    request: Request, campaign_id: UUID, form: FormDep, api: ApiDep, project_id: ProjectDep
) -> Response:
    return await _import(request, api, project_id, campaign_id, form, "")


async def _import(
    request: Request, api: Api, project_id: UUID, campaign_id: UUID, form: FormData, otherwise: str
) -> Response:
    """Imports the file of the form, if there is one; `otherwise` is what is told where there is none."""
    upload = file(form, "recipients")
    if upload is None and otherwise:
        return see_other(f"/campaigns/{campaign_id}?told={otherwise}")
    try:
        if upload is None:
            raise Problem(422, "no-file", "No file was chosen", "Choose a file of recipients, then import it.")
        await imports.import_recipients(
            campaign_id, _as_request(request, upload), api, project_id, each_time(api, project_id)
        )
    except Problem as problem:
        return await campaign.shown(request, api, project_id, campaign_id, problem=problem)
    return see_other(f"/campaigns/{campaign_id}?told=imported")


def _as_request(request: Request, upload: UploadFile) -> Request:
    """The file as the body of a request to the API, read as it is imported."""
    name = (upload.filename or "").lower()
    media = next((media for ending, media in _KINDS.items() if name.endswith(ending)), "text/csv")

    async def receive() -> Message:
        block = await upload.read(READ_BYTES)
        return {"type": "http.request", "body": block, "more_body": bool(block)}

    headers = [(b"content-type", media.encode()), (b"content-length", str(upload.size or 0).encode())]
    return Request({**request.scope, "headers": headers}, receive)


def _body(given: Mapping[str, str]) -> CampaignIn:
    return validated(
        CampaignIn,
        {
            "name": given["name"],
            "from": {"email": given["from_email"], "name": given["from_name"]},
            "subject": given["subject"],
            "html": given["html"] if given["html"].strip() else None,
            "text": given["text"] if given["text"].strip() else None,
            "emails_per_second": given["emails_per_second"] or None,
        },
    )


def _form(request: Request, given: Mapping[str, str], problem: Problem | None) -> Response:
    """The form; with what was given and what is wrong with it, field by field."""
    document: Mapping[str, Any] = problem.document if problem else {}
    errors: dict[str, str] = {}
    for one in document.get("errors", ()):
        pointer = one.get("pointer", "")
        name = _FIELD_OF.get(pointer, pointer.removeprefix("#/"))
        if name in FIELDS:
            place = f"Line {one['line']}, column {one['column']}: " if one.get("line") else ""
            errors.setdefault(name, place + one["detail"])
    return render.page(
        request,
        "new.html",
        status_code=problem.status_code if problem else 200,
        section="new",
        given=given,
        errors=errors,
        problem=document or None,
    )
