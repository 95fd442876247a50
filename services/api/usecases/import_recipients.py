"""Imports of recipients: a file is streamed in, and either all of its valid rows count or none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.formats.csv_table import CsvParser
from services.api.formats.json_list import JsonParser
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.parser import MalformedError, Parser, UnknownFieldError
from services.api.metrics import ApiMetrics
from services.api.shapes.imports import ImportOut
from services.api.usecases import campaign_row, content, import_reports, import_rows
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import (
    DATABASE_AWAY,
    ImportOverError,
    InternalError,
    MalformedFileError,
    RefusedError,
    UnavailableError,
)
from services.api.usecases.importer import Importer, Limits
from services.api.usecases.store import Target
from shared import logs
from shared.content import CampaignContent
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.states import IMPORT_UNFINISHED
from shared.settings import ApiSettings

PARSERS: Mapping[str, type[Parser]] = {"csv": CsvParser, "ndjson": NdjsonParser, "json": JsonParser}

_JSON_ADVICE = "JSON is read whole; send large lists as NDJSON or CSV, which are streamed."
_ADVICE = "Split the list: a campaign takes any number of imports."

log = logs.get()


@dataclass(frozen=True)
class Imports:
    """The imports of this process, and what they need."""

    settings: ApiSettings
    ledger: Ledger
    metrics: ApiMetrics
    stopping: asyncio.Event
    arriving: set[int] = field(default_factory=set)  # ids of imports that this process receives now
    undo_later: dict[int, str] = field(default_factory=dict)  # id and error of those that failed without a database

    def limits(self, file_format: str) -> Limits:
        """What bounds an import of a file in this format."""
        settings = self.settings
        is_json = file_format == "json"
        return Limits(
            max_bytes=settings.max_content_bytes if is_json else settings.max_import_bytes,
            advice=_JSON_ADVICE if is_json else _ADVICE,
            idle_seconds=settings.import_timeout_seconds,
            chunk_rows=settings.import_chunk_rows,
            stopping=self.stopping,
        )


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it arrives."""

    format: str  # a key of PARSERS
    blocks: AsyncIterator[bytes]  # may raise CutOffError


@dataclass(frozen=True, slots=True)
class HeldKey:
    """The idempotency key of a request."""

    key: str
    renew: Callable[[AsyncConnection], Awaitable[None]]  # called in the transaction of every chunk
    settle: Callable[[AsyncConnection, ImportOut], Awaitable[None]]  # called in the transaction that ends the import


async def import_recipients(
    imports: Imports, campaign: CampaignRef, upload: Upload, key: HeldKey | None = None
) -> ImportOut:
    """Imports a file and returns the report. Invalid addresses and those that the campaign has already are left out.
    Raises RefusedError; nothing of the file is kept then."""
    import_id, stored_content = await _open(imports, campaign, upload, key)
    imports.arriving.add(import_id)
    try:
        compiled = await content.check(CampaignContent.model_validate_json(stored_content))
        importer = Importer(
            imports.ledger,
            Target(campaign.id, import_id),
            PARSERS[upload.format](compiled),
            imports.limits(upload.format),
            key.renew if key else None,
        )
        await importer.run(upload.blocks)
        counts = importer.counts()
        report = await _finish(imports, campaign, import_id, counts, key)
    except Exception as error:
        refusal = _refusal(error, import_id)
        await _undo(imports, import_id, refusal.detail)
        raise refusal from error
    finally:
        imports.arriving.discard(import_id)
    for outcome, count in (("accepted", "accepted"), ("duplicate", "duplicates"), ("invalid", "invalid")):
        imports.metrics.imported.labels(upload.format, outcome).inc(counts[count])
    log.info("import.done", campaign_id=str(campaign.id), import_id=import_id, accepted=report.accepted)
    return report


async def cancel(imports: Imports, campaign: CampaignRef, import_id: int) -> ImportOut:
    """Cancels an unfinished import and removes its rows. Raises NotFoundError and ImportOverError."""
    async with imports.ledger.write() as connection:
        await campaign_row.lock(connection, campaign)
        report = await import_reports.show_import(connection, campaign, import_id)
        if report.state not in IMPORT_UNFINISHED:
            raise ImportOverError(f"Import {import_id} is {report.state}; only an open one can be cancelled.")
        await import_rows.give_up(connection, import_id, None)
    if await import_rows.undo(imports.ledger, import_id):
        imports.metrics.undone.labels("cancelled").inc()
    async with imports.ledger.read() as connection:
        return await import_reports.show_import(connection, campaign, import_id)


async def _open(imports: Imports, campaign: CampaignRef, upload: Upload, key: HeldKey | None) -> tuple[int, str]:
    """The import's id, and the content that its recipients must fit."""
    async with imports.ledger.write() as connection:
        import_id = await import_rows.open_import(connection, campaign, upload.format, key.key if key else None)
        stored = await campaign_row.content_of(connection, campaign.id)
    log.info("import.opened", campaign_id=str(campaign.id), import_id=import_id, format=upload.format)
    return import_id, stored


async def _finish(
    imports: Imports, campaign: CampaignRef, import_id: int, counts: Mapping[str, Any], key: HeldKey | None
) -> ImportOut:
    if counts["lines"] == 0:
        raise MalformedError(1, "is the end: the file holds no recipient")
    async with imports.ledger.write() as connection:
        await import_rows.finish(connection, campaign, import_id, counts)
        report = await import_reports.show_import(connection, campaign, import_id)
        if key is not None:
            await key.settle(connection, report)
    return report


def _refusal(error: Exception, import_id: int) -> RefusedError:
    """What the client learns about an import that did not finish."""
    if isinstance(error, RefusedError):
        error.members.setdefault("import_id", import_id)
        return error
    if isinstance(error, MalformedError):
        detail = f"{error}."
        return MalformedFileError(detail[:1].upper() + detail[1:], line=error.line, import_id=import_id)
    if isinstance(error, UnknownFieldError):
        return content.unknown_field(error.use, error.known, import_id=import_id)
    if is_unavailable(error):
        return UnavailableError(f"{DATABASE_AWAY} Import {import_id} will be undone.", import_id=import_id)
    log.error("import.broke", import_id=import_id, exc_info=error)
    return InternalError(import_id=import_id)


async def _undo(imports: Imports, import_id: int, why: str) -> None:
    """Removes the rows. If the database is away, this process does it later: see `services.api.housekeeping`."""
    imports.undo_later[import_id] = why
    try:
        async with imports.ledger.write() as connection:
            await import_rows.give_up(connection, import_id, why)
        del imports.undo_later[import_id]
        if outcome := await import_rows.undo(imports.ledger, import_id):
            imports.metrics.undone.labels(outcome).inc()
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("database.unreachable", import_id=import_id, error=in_a_line(error))
