"""`/v1/campaigns/{id}/recipients` and `/imports`: lists of recipients streamed in, shown, cancelled."""

import hashlib
from collections.abc import AsyncIterator
from email.message import Message
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import ClientDisconnect

from services.api.rest.auth import KeyRoute, key_required
from services.api.rest.errors import UnsupportedMediaTypeError
from services.api.rest.idempotency import Answer, StreamedOnceDep, request_digest
from services.api.shapes.common import Page
from services.api.shapes.imports import ImportOut
from services.api.usecases import import_recipients as importing
from services.api.usecases import import_reports
from services.api.usecases.errors import CutOffError, TooLargeError
from services.api.usecases.import_recipients import HeldKey, Upload
from services.api.web.context import CampaignDep, ProjectDep

FORMATS = {
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/json": "json",
}

router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["recipients"], route_class=KeyRoute, dependencies=[key_required]
)

_BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": "email,first_name\nann@example.com,Ann\n"},
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"email": "ann@example.com", "data": {"first_name": "Ann"}}\n',
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["recipients"],
                    "properties": {"recipients": {"type": "array", "items": {"type": "object"}}},
                },
                "example": {"recipients": [{"email": "ann@example.com", "data": {"first_name": "Ann"}}]},
            },
        },
    }
}


@router.post(
    "/recipients", status_code=201, response_model=ImportOut, summary="Import recipients", openapi_extra=_BODIES
)
async def import_recipients(
    campaign: CampaignDep, request: Request, project: ProjectDep, once: StreamedOnceDep
) -> Response:
    """Streams a list in. Invalid addresses, and those that the campaign has already, are left out and reported by line.
    If the file cannot be read, the answer names the line and nothing is imported. A campaign takes one import at a
    time."""
    imports = project.api.imports
    file_format = _format(request)
    limits = imports.limits(file_format)
    if int(request.headers.get("content-length") or 0) > limits.max_bytes:
        raise TooLargeError(limits.max_bytes, limits.advice)
    body = _Body(request)
    stored = await once.begin(limits.idle_seconds)
    if stored is not None:
        async for _ in body.blocks():
            pass
        once.digest = body.request_digest()
        once.compare()
        return stored

    async def settle(connection: AsyncConnection, report: ImportOut) -> None:
        once.digest = body.request_digest()
        await once.keep(connection, _answer(report))

    key = HeldKey(once.key, once.renew, settle) if once.key is not None else None
    try:
        upload = Upload(file_format, body.blocks())
        report = await importing.import_recipients(imports, campaign, upload, key)
    except Exception:
        await once.release()
        raise
    return _answer(report).response()


@router.get("/imports", summary="List the imports of a campaign, newest first")
async def list_imports(
    campaign: CampaignDep,
    project: ProjectDep,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[ImportOut]:
    async with project.read() as connection:
        return await import_reports.list_imports(connection, campaign, cursor, limit)


_ImportId = Annotated[int, Field(ge=1, lt=2**63)]


@router.get("/imports/{import_id}", summary="Show an import")
async def show_import(campaign: CampaignDep, import_id: _ImportId, project: ProjectDep) -> ImportOut:
    async with project.read() as connection:
        return await import_reports.show_import(connection, campaign, import_id)


@router.post("/imports/{import_id}/cancel", summary="Cancel an import that is not done")
async def cancel_import(campaign: CampaignDep, import_id: _ImportId, project: ProjectDep) -> ImportOut:
    """Removes the recipients that it has added so far."""
    return await importing.cancel(project.api.imports, campaign, import_id)


class _Body:
    """A body as a stream, and its digest once it has been read."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._hash = hashlib.sha256()

    async def blocks(self) -> AsyncIterator[bytes]:
        """Raises CutOffError if the client disconnects."""
        try:
            async for block in self._request.stream():
                if block:
                    self._hash.update(block)
                    yield block
        except ClientDisconnect:
            raise CutOffError("The upload was cut off. Nothing of it was imported; repeat it.") from None

    def request_digest(self) -> str:
        return request_digest(self._request, self._hash.digest())


def _answer(report: ImportOut) -> Answer:
    return Answer(201, report, {"Location": f"/v1/campaigns/{report.campaign_id}/imports/{report.id}"})


def _format(request: Request) -> str:
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    found = FORMATS.get(header.get_content_type()) if header["content-type"] else None
    charset = str(header.get_content_charset() or "utf-8")
    encoding = request.headers.get("content-encoding", "identity")
    if found and charset in ("utf-8", "utf8", "us-ascii") and encoding == "identity":
        return found
    raise UnsupportedMediaTypeError(
        f"Send {', '.join(FORMATS)} in UTF-8, not compressed; say which as Content-Type.",
        headers={"Accept-Post": ", ".join(FORMATS), "Connection": "close"},
    )
