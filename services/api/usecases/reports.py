"""What came back after a relay's 250: reports given to us, and listed."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.common import Page
from services.api.shapes.reports import ReportOut, TakenOut
from services.api.usecases import campaign_row
from services.api.usecases.acts import about
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.erasure import erased_among
from services.api.usecases.paging import cut
from services.api.usecases.tenant import Tenant
from shared.addresses import AddressError, parse_address
from shared.feedback.meaning import Found
from shared.feedback.read import digest, read
from shared.feedback.ses import read_event
from shared.ledger import report_people, reports
from shared.ledger.database import Ledger
from shared.ledger.report_tables import Report
from shared.ledger.reports import Incoming
from shared.signing import Use, derived_key, make_token, read_token

GROUPS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Group:
    """Reports of a campaign that say the same."""

    kind: str
    #: None: of complaints and unsubscribes.
    why: str | None
    count: int
    #: The words of one of them.
    text: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which reports of a project, newest first."""

    campaign_id: UUID | None = None
    kind: str | None = None
    verified: bool | None = None
    below: int | None = None  # only those with smaller ids
    limit: int = 100


async def take(ledger: Ledger, secrets: Sequence[bytes], project_id: UUID, octets: bytes) -> TakenOut:
    """Records a mail that the project gives us as a report."""
    # A large one takes a while: the event loop stays free for other requests.
    found = await asyncio.to_thread(read, octets)
    async with ledger.write() as connection:
        person = await report_people.identify(connection, secrets, found.tokens, project_id)
        forgotten = None
        if person is None:
            forgotten = await report_people.forgotten(connection, secrets, found.tokens, project_id)
        if person is None and forgotten is None:
            found = await _without_erased(connection, secrets, project_id, found)
        incoming = Incoming(found, digest(octets, str(project_id)), "api", person, project_id, forgotten)
        [outcome] = await reports.record(connection, [incoming])
        about(result=outcome.result)
    return TakenOut(result=outcome.result, kind=outcome.kind.value, report_id=outcome.report_id)


_HOOK_PURPOSE = b"vashsender ses 1\0"
_PADDING = b"\0\0"
"""A token's payload has a length that divides by 3."""


def hook_token(secret: bytes, project_id: UUID) -> str:
    """The token of the address at which SES tells a project what came back."""
    return make_token(secret, _HOOK_PURPOSE, project_id.bytes + _PADDING)


def hook_project(secrets: Sequence[bytes], token: str) -> UUID:
    """Raises TokenError."""
    return UUID(bytes=read_token(secrets, _HOOK_PURPOSE, token, len(_PADDING) + 16)[:16])


async def take_event(
    ledger: Ledger, secrets: Sequence[bytes], project_id: UUID, event: Mapping[str, Any]
) -> list[TakenOut]:
    """Records what an event of SES says, for each of its recipients. The caller knows that it is genuine."""
    taken: list[TakenOut] = []
    for one in read_event(event):
        found = one.found
        async with ledger.write() as connection:
            person = await report_people.identify(connection, secrets, found.tokens, project_id)
            forgotten = None
            if person is None:
                forgotten = await report_people.forgotten(connection, secrets, found.tokens, project_id)
            if person is None and forgotten is None and found.addresses:
                person = await report_people.by_queue_id(connection, project_id, found.addresses[0], one.queue_id)
            said = f"{one.queue_id} {found.kind} {found.addresses} {found.code} {found.enhanced} {found.text}"
            digest = sha256(f"ses {project_id} {said}".encode("utf-8", "replace")).hexdigest()
            if person is None and forgotten is None:
                found = await _without_erased(connection, secrets, project_id, found)
            [outcome] = await reports.record(
                connection, [Incoming(found, digest, "ses", person, project_id, forgotten)]
            )
        taken.append(TakenOut(result=outcome.result, kind=outcome.kind.value, report_id=outcome.report_id))
    return taken


async def _without_erased(
    connection: AsyncConnection, secrets: Sequence[bytes], project_id: UUID, found: Found
) -> Found:
    """An unverified report that names a person who was erased keeps its kind and codes only."""
    roots = [derived_key(secret, Use.HASHED) for secret in secrets]
    if await erased_among(connection, project_id, roots, set(_keys(found.addresses))):
        return replace(found, addresses=(), of_each=(), text="", reporter="")
    return found


def _keys(written: Sequence[str]) -> Iterator[str]:
    for text in written:
        try:
            yield parse_address(text).key
        except AddressError:
            continue


async def list_reports(connection: AsyncConnection, tenant: Tenant, wanted: Wanted) -> Page[ReportOut]:
    """Raises ForgottenError for a campaign whose results were deleted, NotFoundError for one that there is not."""
    project_id = tenant.project_id
    if wanted.campaign_id is not None:
        await campaign_row.find_kept(connection, CampaignRef(tenant, wanted.campaign_id))
    query = select(Report.__table__).where(col(Report.project_id) == project_id)  # type: ignore[attr-defined]
    if wanted.campaign_id is not None:
        query = query.where(col(Report.campaign_id) == wanted.campaign_id)
    if wanted.kind is not None:
        query = query.where(col(Report.kind) == wanted.kind)
    if wanted.verified is not None:
        query = query.where(col(Report.verified).is_(wanted.verified))
    if wanted.below is not None:
        query = query.where(col(Report.id) < wanted.below)
    found = await connection.execute(query.order_by(col(Report.id).desc()).limit(wanted.limit + 1))
    page, following = cut(found.all(), wanted.limit)
    return Page(data=[ReportOut.model_validate(row) for row in page], next_cursor=following)


async def by_reason(connection: AsyncConnection, campaign_id: UUID) -> Sequence[Group]:
    """What came back of a campaign, by kind and reason, the most frequent first."""
    number = func.count()
    found = await connection.execute(
        select(col(Report.kind), col(Report.why), number, func.max(col(Report.text)))
        .where(col(Report.campaign_id) == campaign_id)
        .group_by(col(Report.kind), col(Report.why))
        .order_by(number.desc(), col(Report.kind), col(Report.why))
        .limit(GROUPS_SHOWN)
    )
    return [Group(*row) for row in found]
