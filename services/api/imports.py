"""Imports of recipients: streamed in, listed, shown, cancelled."""

import hashlib
from collections.abc import AsyncIterator
from email.message import Message
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy import select
from sqlmodel import col
from starlette.requests import ClientDisconnect

from services.api import campaign_row, content, import_rows
from services.api.auth import KeyRoute, key_required
from services.api.context import Api, ApiDep, ProjectDep
from services.api.formats.csv_table import CsvParser
from services.api.formats.json_list import JsonParser
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.parser import MalformedError, Parser, UnknownFieldError
from services.api.idempotency import Once, StreamedOnceDep, request_digest
from services.api.import_report import ImportOut, find_import, shown
from services.api.import_rows import ImportEndedError
from services.api.importer import Importer
from services.api.problems import DATABASE_AWAY, Problem, too_large, unavailable
from services.api.shapes import Page
from shared import logs
from shared.content import CampaignContent
from shared.ledger.database import in_a_line, is_unavailable
from shared.ledger.models import Import
from shared.ledger.states import IMPORT_UNFINISHED

PARSERS: dict[str, type[Parser]] = {"csv": CsvParser, "ndjson": NdjsonParser, "json": JsonParser}
FORMATS = {
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/json": "json",
}

log = logs.get()
router = APIRouter(
    prefix="/v1/campaigns/{campaign_id}", tags=["recipients"], route_class=KeyRoute, dependencies=[key_required]
)


@router.post(
    "/recipients",
    status_code=201,
    response_model=ImportOut,
    summary="Import recipients",
    openapi_extra={
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
    },
)
async def import_recipients(
    campaign_id: UUID, request: Request, api: ApiDep, project_id: ProjectDep, once: StreamedOnceDep
) -> Response:
    """Streams a list in. Addresses that are invalid or known already are left out and reported by line; a file that
    cannot be read is refused with the line, and nothing of it is kept. One import of a campaign at a time."""
    file_format = _format(request)
    limit = api.settings.max_content_bytes if file_format == "json" else api.settings.max_import_bytes
    if int(request.headers.get("content-length") or 0) > limit:
        raise _too_large(file_format, limit)
    stored = await once.begin(api.settings.import_timeout_seconds)
    if stored is not None:
        await _compare(request, once)
        return stored
    try:
        import_id, stored_content = await _open(api, project_id, campaign_id, file_format, once.key)
        api.importing.add(import_id)
        try:
            compiled = await content.check(CampaignContent.model_validate_json(stored_content))
            importer = Importer(api, campaign_id, import_id, PARSERS[file_format](compiled), once)
            await importer.run(_blocks(request), limit)
            once.digest = request_digest(request, importer.body_digest)
            return await _finish(api, once, project_id, campaign_id, import_id, importer, file_format)
        except Exception as error:
            problem = _problem(error, import_id, file_format, limit)
            await _undo(api, import_id, problem)
            raise problem from error
        finally:
            api.importing.discard(import_id)
    except Problem:
        await once.release()
        raise


@router.get("/imports", summary="List a campaign's imports, newest first")
async def list_imports(
    campaign_id: UUID,
    api: ApiDep,
    project_id: ProjectDep,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[ImportOut]:
    query = select(Import.__table__).where(col(Import.campaign_id) == campaign_id)  # type: ignore[attr-defined]
    if cursor is not None:
        query = query.where(col(Import.id) < cursor)
    async with api.ledger.read() as connection:
        await campaign_row.find(connection, project_id, campaign_id)
        rows = (await connection.execute(query.order_by(col(Import.id).desc()).limit(limit + 1))).all()
    return Page(
        data=[shown(row) for row in rows[:limit]], next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None
    )


_ImportId = Annotated[int, Field(ge=1, lt=2**63)]


@router.get("/imports/{import_id}", summary="Show an import")
async def show_import(campaign_id: UUID, import_id: _ImportId, api: ApiDep, project_id: ProjectDep) -> ImportOut:
    async with api.ledger.read() as connection:
        await campaign_row.find(connection, project_id, campaign_id)
        return shown(await find_import(connection, campaign_id, import_id))


@router.post("/imports/{import_id}/cancel", summary="Cancel an import that is open")
async def cancel_import(campaign_id: UUID, import_id: _ImportId, api: ApiDep, project_id: ProjectDep) -> ImportOut:
    """What it brought so far is taken out again."""
    async with api.ledger.write() as connection:
        await campaign_row.lock(connection, project_id, campaign_id)
        row = await find_import(connection, campaign_id, import_id)
        if row.state not in IMPORT_UNFINISHED:
            raise Problem(
                409,
                "wrong-state",
                "The import is over",
                f"Import {import_id} is {row.state}; only an open one can be cancelled.",
            )
        await import_rows.give_up(connection, import_id, None)
    if await import_rows.undo(api.ledger, import_id):
        api.metrics.undone.labels("cancelled").inc()
    async with api.ledger.read() as connection:
        return shown(await find_import(connection, campaign_id, import_id))


def _format(request: Request) -> str:
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    found = FORMATS.get(header.get_content_type()) if header["content-type"] else None
    charset = str(header.get_content_charset() or "utf-8")
    encoding = request.headers.get("content-encoding", "identity")
    if found and charset in ("utf-8", "utf8", "us-ascii") and encoding == "identity":
        return found
    raise Problem(
        415,
        "unsupported-media-type",
        "This kind of file is not understood",
        f"Send {', '.join(FORMATS)} in UTF-8, not compressed; say which as Content-Type.",
        headers={"Accept-Post": ", ".join(FORMATS), "Connection": "close"},
    )


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    async for block in request.stream():
        if block:
            yield block


async def _compare(request: Request, once: Once) -> None:
    """Reads a body only to see whether it is the one that was answered before."""
    body = hashlib.sha256()
    async for block in request.stream():
        body.update(block)
    once.digest = request_digest(request, body.digest())
    once.compare()


async def _open(
    api: Api, project_id: UUID, campaign_id: UUID, file_format: str, idempotency_key: str | None
) -> tuple[int, str]:
    """The import's id, and the content its recipients must fit."""
    async with api.ledger.write() as connection:
        import_id = await import_rows.open_import(connection, project_id, campaign_id, file_format, idempotency_key)
        stored = await campaign_row.content_of(connection, campaign_id)
    log.info("import.opened", campaign_id=str(campaign_id), import_id=import_id, format=file_format)
    return import_id, stored


async def _finish(
    api: Api, once: Once, project_id: UUID, campaign_id: UUID, import_id: int, importer: Importer, file_format: str
) -> Response:
    counts = importer.counts()
    if counts["lines"] == 0:
        raise MalformedError(1, "is the end: the file holds no recipient")
    async with api.ledger.write() as connection:
        campaign = await campaign_row.lock(connection, project_id, campaign_id)
        campaign_row.require_editable(campaign, "an import of recipients")
        await import_rows.progress(connection, import_id, first_id=None, last_id=None, **counts)
        text = (
            f"Imported {counts['accepted']} recipients from {file_format.upper()}; left out "
            f"{counts['duplicates']} duplicates and {counts['invalid']} invalid."
        )
        await import_rows.finish(connection, campaign, import_id, counts["accepted"], text)
        report = shown(await find_import(connection, campaign_id, import_id))
        answer = await once.answer(
            connection, 201, report, headers={"Location": f"/v1/campaigns/{campaign_id}/imports/{import_id}"}
        )
    for outcome, count in (("accepted", "accepted"), ("duplicate", "duplicates"), ("invalid", "invalid")):
        api.metrics.imported.labels(file_format, outcome).inc(counts[count])
    log.info("import.done", campaign_id=str(campaign_id), import_id=import_id, accepted=counts["accepted"])
    return answer


def _problem(error: Exception, import_id: int, file_format: str, limit: int) -> Problem:
    """What the client is told about an import that did not finish."""
    if isinstance(error, MalformedError):
        title = "The file cannot be read, so nothing of it was imported"
        return Problem(
            422,
            "malformed-file",
            title,
            f"{error}."[:1].upper() + f"{error}."[1:],
            line=error.line,
            import_id=import_id,
        )
    if isinstance(error, UnknownFieldError):
        return content.unknown_field(error.use, error.known, import_id=import_id)
    if isinstance(error, ImportEndedError):
        return Problem(409, "import-ended", "The import was ended", str(error), import_id=import_id)
    if isinstance(error, ClientDisconnect):
        return Problem(
            400,
            "cut-off",
            "The upload was cut off",
            "The upload was cut off. Nothing of it was imported; repeat it.",
            import_id=import_id,
        )
    if isinstance(error, Problem):
        return _too_large(file_format, limit) if error.status_code == 413 else error
    if is_unavailable(error):
        return unavailable(f"{DATABASE_AWAY} Import {import_id} will be undone.")
    log.error("import.broke", import_id=import_id, exc_info=error)
    return Problem(
        500,
        "internal",
        "Something went wrong here",
        "This is a mistake of the server; its log says more.",
        import_id=import_id,
    )


async def _undo(api: Api, import_id: int, problem: Problem) -> None:
    """Takes the rows out; where the database is away, the clock of this process will."""
    api.undo_later[import_id] = problem.document["detail"]
    try:
        async with api.ledger.write() as connection:
            await import_rows.give_up(connection, import_id, problem.document["detail"])
        del api.undo_later[import_id]
        if outcome := await import_rows.undo(api.ledger, import_id):
            api.metrics.undone.labels(outcome).inc()
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("database.unreachable", import_id=import_id, error=in_a_line(error))


def _too_large(file_format: str, limit: int) -> Problem:
    if file_format == "json":
        return too_large(limit, "JSON is read whole; send large lists as NDJSON or CSV, which are streamed.")
    return too_large(limit, "Split the list: a campaign takes any number of imports.")
