"""`/v1/campaigns/{id}/recipients` and `/imports`: lists of recipients streamed in, shown, cancelled."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import ClientDisconnect

from services.api.formats.options import ReadOptions
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

FORMATS: Mapping[str, str | None] = {
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/csv": "csv",
    "application/vnd.ms-excel": "csv",  # what browsers on Windows call a .csv
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/json": "json",
    "application/zip": None,
    "application/x-zip-compressed": None,
    "application/gzip": None,
    "application/x-gzip": None,
}
"""The format of each media type; None: the name of the packed file says it."""

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


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the client says its file is to be read."""

    format: str | None
    charset: str | None
    options: ReadOptions


class ReadingIn(BaseModel):
    format: Literal["csv", "ndjson", "json"] | None = Field(
        None, description="The format, if neither Content-Type nor the packed file's name says it."
    )
    charset: str | None = Field(
        None, max_length=40, description="The file's encoding. Default: UTF-8, or what a byte order mark says."
    )
    email_column: str | None = Field(
        None, max_length=1000, description="The column of the addresses. Default: `email`."
    )
    columns: list[str] = Field(
        [],
        max_length=100,
        description="`COLUMN:FIELD`, separated by commas: the column fills this field.",
    )
    types: list[str] = Field(
        [], max_length=100, description="`FIELD:boolean`, separated by commas: the field's words mean yes or no."
    )


def _reading(request: Request, query: Annotated[ReadingIn, Query()]) -> _Reading:
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    media_type = header.get_content_type() if header["content-type"] else ""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if media_type not in FORMATS or encoding not in ("identity", "gzip", "x-gzip"):
        raise UnsupportedMediaTypeError(
            f"Send {', '.join(FORMATS)}; say which as Content-Type. It may be packed with gzip or zip.",
            headers={"Accept-Post": ", ".join(FORMATS), "Accept-Encoding": "gzip", "Connection": "close"},
        )
    declared = header.get_content_charset()
    options = importing.read_as(query.email_column, query.columns, query.types)
    charset = query.charset
    if charset is None and declared not in (None, "utf-8", "utf8", "us-ascii"):
        charset = str(declared)
    return _Reading(FORMATS[media_type] or query.format, charset, options)


_ReadingDep = Annotated[_Reading, Depends(_reading)]


@router.post(
    "/recipients", status_code=201, response_model=ImportOut, summary="Import recipients", openapi_extra=_BODIES
)
async def import_recipients(
    campaign: CampaignDep, request: Request, project: ProjectDep, once: StreamedOnceDep, reading: _ReadingDep
) -> Response:
    """Streams a list in; it may be packed with gzip or zip. Invalid addresses, and those that the campaign has already,
    are left out and reported by line. If the file cannot be read, the answer names the line and nothing is imported.
    A campaign takes one import at a time."""
    imports = project.api.imports
    limits = imports.limits(reading.format or "csv")
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
        upload = Upload(reading.format, body.blocks(), reading.charset, reading.options)
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
