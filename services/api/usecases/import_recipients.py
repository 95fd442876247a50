"""Imports of recipients: a file is streamed in, and either all of its valid rows count or none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.formats.charsets import as_utf8, known_charset
from services.api.formats.csv_table import CsvParser
from services.api.formats.json_list import JsonParser
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.options import NO_OPTIONS, OptionError, ReadOptions, read_options
from services.api.formats.parser import MalformedError, Parser, UnknownFieldError
from services.api.formats.unpack import unpack
from services.api.metrics import ApiMetrics
from services.api.shapes.imports import ImportOut
from services.api.usecases import campaign_row, content, import_reports, import_rows
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import (
    DATABASE_AWAY,
    ImportOverError,
    InternalError,
    InvalidError,
    MalformedFileError,
    RefusedError,
    TooLargeError,
    TooSlowError,
    UnavailableError,
)
from services.api.usecases.importer import Importer, Limits
from services.api.usecases.store import Target
from shared import logs
from shared.ledger.database import Ledger, in_a_line, is_unavailable
from shared.ledger.states import IMPORT_UNFINISHED
from shared.settings import ApiSettings

PARSERS: Mapping[str, type[Parser]] = {"csv": CsvParser, "ndjson": NdjsonParser, "json": JsonParser}

ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
}
"""The format of a file by the end of its name."""

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

    format: str | None  # a key of PARSERS; None: by the name of the file inside a packed upload
    blocks: AsyncIterator[bytes]  # packed or not; may raise CutOffError
    charset: str | None = None  # None: UTF-8, or what a byte order mark says
    options: ReadOptions = NO_OPTIONS


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
    unpacked = await _unpacked(imports, upload)
    import_id, stored_content = await _open(imports, campaign, unpacked, key)
    imports.arriving.add(import_id)
    try:
        compiled = await content.compiled(stored_content)
        importer = Importer(
            imports.ledger,
            Target(campaign, import_id),
            PARSERS[unpacked.format](compiled, unpacked.options),
            imports.limits(unpacked.format),
            key.renew if key else None,
        )
        await importer.run(unpacked.blocks)
        counts = importer.counts()
        report = await _finish(imports, campaign, import_id, counts, key)
    except Exception as error:
        refusal = _refusal(error, import_id)
        await _undo(imports, import_id, refusal.detail)
        raise refusal from error
    finally:
        imports.arriving.discard(import_id)
    for outcome, count in (("accepted", "accepted"), ("duplicate", "duplicates"), ("invalid", "invalid")):
        imports.metrics.imported.labels(unpacked.format, outcome).inc(counts[count])
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


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """A file as its parser reads it."""

    format: str
    blocks: AsyncIterator[bytes]  # UTF-8
    options: ReadOptions


async def _unpacked(imports: Imports, upload: Upload) -> _Unpacked:
    """Takes packing and encoding off. Waits for the first bytes, which say how the file is packed."""
    limits = imports.limits(upload.format or "csv")
    try:
        charset = known_charset(upload.charset) if upload.charset is not None else None
        async with asyncio.timeout(limits.idle_seconds):
            opened = await unpack(_bounded(upload.blocks, limits))
    except OptionError as error:
        raise _wrong_option(error) from None
    except MalformedError as error:
        raise _malformed(error) from None
    except TimeoutError:
        raise TooSlowError(f"Nothing arrived for {limits.idle_seconds:g} s. Repeat the request.") from None
    file_format = upload.format or format_of(opened.name)
    if file_format is None:
        known = ", ".join(PARSERS)
        detail = f"does not follow from the file's name ({opened.name or 'none'}); possible: {known}"
        raise InvalidError([{"parameter": "query format", "detail": detail}])
    return _Unpacked(file_format, as_utf8(opened.blocks, charset), upload.options)


def read_as(email_column: str | None, columns: Iterable[str], types: Iterable[str]) -> ReadOptions:
    """How the client wants its file to be read. Raises InvalidError, which names the option."""
    try:
        return read_options(email_column, columns, types)
    except OptionError as error:
        raise _wrong_option(error) from None


def _wrong_option(error: OptionError) -> InvalidError:
    return InvalidError([{"parameter": f"query {error.option}", "detail": error.reason}])


def format_of(name: str) -> str | None:
    """The format of a file by its name, packed or not; None if the name does not say."""
    return ENDINGS.get(PurePath(name.lower().removesuffix(".gz")).suffix)


async def _bounded(blocks: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    size = 0
    async for block in blocks:
        size += len(block)
        if size > limits.max_bytes:
            raise TooLargeError(limits.max_bytes, limits.advice)
        yield block


async def _open(imports: Imports, campaign: CampaignRef, upload: _Unpacked, key: HeldKey | None) -> tuple[int, str]:
    """The import's id, and the content that its recipients must fit."""
    async with imports.ledger.write() as connection:
        import_id = await import_rows.open_import(connection, campaign, upload.format, key.key if key else None)
        stored = await campaign_row.texts_of(connection, campaign.id)
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
        return _malformed(error, import_id=import_id)
    if isinstance(error, UnknownFieldError):
        return content.unknown_field(error.use, error.known, import_id=import_id)
    if is_unavailable(error):
        return UnavailableError(f"{DATABASE_AWAY} Import {import_id} will be undone.", import_id=import_id)
    log.error("import.broke", import_id=import_id, exc_info=error)
    return InternalError(import_id=import_id)


def _malformed(error: MalformedError, **members: Any) -> MalformedFileError:
    detail = f"{error}."
    return MalformedFileError(detail[:1].upper() + detail[1:], line=error.line, **members)


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
