"""One campaign's row: found within its project, locked, and moved only where its status allows it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, Select, Text, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import col

from services.api.shapes.campaigns import Mailbox
from services.api.shapes.common import moment
from services.api.usecases.errors import ForgottenError, ImportOpenError, NotFoundError, WrongStateError, invalid
from services.api.usecases.tenant import Tenant
from shared.ledger import campaigns, rows
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Campaign, Import
from shared.ledger.states import (
    CAMPAIGN_TRANSITIONS,
    EDITABLE,
    IMPORT_UNFINISHED,
    CampaignStatus,
    ImportState,
)
from shared.relay_groups import RelayGroups

_HEAVY = ("content",)
COLUMNS = tuple(column for column in Campaign.__table__.columns if column.name not in _HEAVY)  # type: ignore[attr-defined]
"""All but the content, which may weigh megabytes."""

WHOLE_BYTES = 65_536
"""A content up to this length is read as it is: taking it apart would cost more than its attachments."""


class texts(FunctionElement[str]):  # noqa: N801 - reads as the SQL function it is
    """Of `campaign.content`: the same JSON, on PostgreSQL with empty attachments if it is longer than WHOLE_BYTES. They
    may be megabytes, and most uses need none of them."""

    type = Text()
    inherit_cache = True
    name = "texts"


@compiles(texts, "postgresql")
def _postgresql_texts(element: texts, compiler: Any, **options: Any) -> str:
    content = compiler.process(element.clauses, **options)
    return f"""CASE WHEN octet_length({content}) <= {WHOLE_BYTES} THEN {content} ELSE (
        SELECT CAST(json_build_object(
            'subject', c -> 'subject', 'html', c -> 'html', 'text', c -> 'text',
            'attachments', (
                SELECT coalesce(json_agg(json_build_object(
                    'filename', a -> 'filename', 'content_type', a -> 'content_type', 'content', '',
                    'content_id', a -> 'content_id'
                )), '[]')
                FROM json_array_elements(c -> 'attachments') AS a
            )
        ) AS text)
        FROM (SELECT CAST({content} AS json) AS c) AS one
    ) END"""


@compiles(texts, "sqlite")
def _sqlite_texts(element: texts, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))  # its own functions take ten times the memory


_TEXTS_OF = select(texts(col(Campaign.content))).where(col(Campaign.id) == bindparam("campaign_id"))

_MINE = (col(Campaign.id) == bindparam("campaign_id"), col(Campaign.project_id) == bindparam("its_project"))
_FIND = select(*COLUMNS).where(*_MINE)
_LOCK = rows.locking(Campaign.cursor, *_MINE, returning=(*COLUMNS, db_now().label("now")))
_FIND_WITH_TEXTS: Select[*tuple[Any, ...]] = select(*COLUMNS, texts(col(Campaign.content)).label("texts")).where(*_MINE)


@dataclass(frozen=True, slots=True)
class CampaignRef:
    """Which campaign a use case is about. Campaigns of other projects are not found."""

    tenant: Tenant
    id: UUID

    @property
    def project_id(self) -> UUID:
        return self.tenant.project_id


def _mine(campaign: CampaignRef) -> Mapping[str, UUID]:
    return {"campaign_id": campaign.id, "its_project": campaign.project_id}


async def find(connection: AsyncConnection, campaign: CampaignRef) -> Row[Any]:
    """The campaign without its content. Raises NotFoundError."""
    return found((await connection.execute(_FIND, _mine(campaign))).first())


async def find_with_texts(ledger: Ledger, campaign: CampaignRef) -> tuple[Row[Any], str]:
    """The same, and what `texts_of` returns, in one statement. Raises NotFoundError and ForgottenError."""
    row = found(next(iter(await ledger.read_alone(_FIND_WITH_TEXTS, _mine(campaign))), None))
    _require_kept(row)
    return row, _light(row.texts, is_light=not ledger.is_sqlite)


async def find_kept(connection: AsyncConnection, campaign: CampaignRef) -> Row[Any]:
    """The same, for what needs its content or recipients. Raises NotFoundError and ForgottenError."""
    row = await find(connection, campaign)
    _require_kept(row)
    return row


async def content_bytes(connection: AsyncConnection, campaign_id: UUID) -> int:
    """How long the content is, without reading it: in bytes, or in characters on SQLite. The campaign must exist."""
    length = func.octet_length if connection.dialect.name == "postgresql" else func.length
    found = await connection.execute(select(length(col(Campaign.content))).where(col(Campaign.id) == campaign_id))
    return int(found.scalar_one())


async def texts_of(connection: AsyncConnection, campaign_id: UUID) -> str:
    """The campaign's content as JSON, with its attachments empty if it is long. The campaign must exist."""
    found = await connection.execute(_TEXTS_OF, {"campaign_id": campaign_id})
    return _light(found.scalar_one(), is_light=connection.dialect.name == "postgresql")


def _light(stored: str, *, is_light: bool) -> str:
    """Does in Python what `texts` does on PostgreSQL."""
    if is_light:
        return stored
    content = orjson.loads(stored)
    for file in content.get("attachments", ()):
        file["content"] = ""
    return orjson.dumps(content).decode()


async def content_of(connection: AsyncConnection, campaign_id: UUID) -> str:
    """The campaign's content as JSON. The campaign must exist."""
    found = await connection.execute(select(col(Campaign.content)).where(col(Campaign.id) == campaign_id))
    return str(found.scalar_one())


async def copy_content(connection: AsyncConnection, source: UUID, to: UUID) -> None:
    """Gives a campaign the content of another. The database copies it, because it may be megabytes."""
    original = aliased(Campaign)
    content = select(col(original.content)).where(col(original.id) == source).scalar_subquery()
    await connection.execute(update(Campaign).where(col(Campaign.id) == to).values(content=content))


async def lock(connection: AsyncConnection, campaign: CampaignRef) -> Row[Any]:
    """The campaign as `find` gives it, and as `now` the database's clock, locked until the transaction ends. Raises
    NotFoundError, and ForgottenError: nothing can be done with a campaign without its results."""
    row = found((await connection.execute(_LOCK, _mine(campaign))).first())
    _require_kept(row)
    return row


async def move(connection: AsyncConnection, row: Row[Any], to: CampaignStatus, action: str, **values: Any) -> None:
    """Moves a locked campaign and changes its other columns to `values`. Raises WrongStateError."""
    if not await campaigns.move(connection, row.id, to, **values):
        raise wrong_state(row, action)


async def change(connection: AsyncConnection, row: Row[Any], **values: Any) -> None:
    """Changes columns other than the status of a locked campaign."""
    await connection.execute(update(Campaign).where(col(Campaign.id) == row.id).values(**values))


async def require_domains(connection: AsyncConnection, campaign: CampaignRef, row: Row[Any]) -> None:
    """Raises ForeignDomainError if the campaign's sender is of a domain that the key or its project may not use."""
    addresses = {"#/from/email": row.from_email, "#/envelope_from": row.envelope_from}
    await campaign.tenant.require_domains(connection, addresses)


def require_status(row: Row[Any], statuses: Collection[CampaignStatus], action: str) -> None:
    """Raises WrongStateError if the campaign has another status."""
    if row.status not in statuses:
        raise wrong_state(row, action)


def require_editable(row: Row[Any], action: str) -> None:
    """Raises WrongStateError once the campaign was accepted for sending."""
    require_status(row, EDITABLE, action)


_UNFINISHED = (
    select(col(Import.id), col(Import.state))
    .where(col(Import.campaign_id) == bindparam("campaign_id"), col(Import.state).in_(IMPORT_UNFINISHED))
    .limit(1)
)


async def require_no_import(connection: AsyncConnection, campaign_id: UUID, action: str) -> None:
    """Raises ImportOpenError while recipients are being imported, or removed again."""
    unfinished = (await connection.execute(_UNFINISHED, {"campaign_id": campaign_id})).first()
    if unfinished is None:
        return
    advice = (
        "Wait for it, or cancel it"
        if unfinished.state == ImportState.OPEN
        else "It failed or was cancelled, and its rows are being removed; wait a moment"
    )
    raise ImportOpenError(
        f"Import {unfinished.id} of this campaign is not done, so {action} is not possible. {advice}.",
        import_id=unfinished.id,
    )


def require_group(groups: RelayGroups, name: str | None) -> None:
    """Raises InvalidError if there is no such group of relays."""
    if name is not None and name not in groups.names:
        known = f"it names {', '.join(groups.names)}" if groups.names else "it names none"
        raise invalid("#/relay_group", f"{name!r} is not in VASHSENDER_RELAY_GROUPS; {known}")


def reply_to_columns(reply_to: Mailbox | None) -> dict[str, str | None]:
    """The columns that keep where answers go. Release 0.1.0 reads the address only."""
    if reply_to is None:
        return {"reply_to": None, "reply_to_name": None}
    return {"reply_to": reply_to.email, "reply_to_name": reply_to.name or None}


def possible(row: Row[Any]) -> tuple[str, ...]:
    """What can be done with a campaign in its status."""
    if row.forgotten_at is not None:
        return ()
    status = CampaignStatus(row.status)
    editable, may = status in EDITABLE, CAMPAIGN_TRANSITIONS[status]
    reopens = status not in EDITABLE and (CampaignStatus.QUEUED in may or CampaignStatus.PAUSED in may)
    allowed = {
        "PATCH": editable,
        "DELETE": editable,
        "import recipients": editable,
        "send": editable,
        "pause": CampaignStatus.PAUSED in may,
        "resume": status == CampaignStatus.PAUSED,
        "cancel": CampaignStatus.STOPPING in may,
        "retry-failed": reopens,
        "resolve-unknown": reopens,
        "test": True,
    }
    return tuple(action for action, is_allowed in allowed.items() if is_allowed)


def wrong_state(row: Row[Any], action: str) -> WrongStateError:
    return WrongStateError(
        f"A campaign that is {row.status} does not allow {action}. Possible now: {', '.join(possible(row))}.",
        campaign_status=row.status,
        possible=possible(row),
    )


def _require_kept(row: Row[Any]) -> None:
    if row.forgotten_at is not None:
        at = moment(row.forgotten_at)
        raise ForgottenError(
            f"The recipients, results and content of this campaign were deleted on {at:%Y-%m-%d at %H:%M} UTC, after"
            f" the retention of its project. Its counts, timeline and a summary stay: GET /v1/campaigns/{row.id}.",
            forgotten_at=at.isoformat().replace("+00:00", "Z"),
        )


def found(row: Row[Any] | None) -> Row[Any]:
    """The row. Raises NotFoundError if there is none."""
    if row is None:
        raise NotFoundError("campaign with this id")
    return row
