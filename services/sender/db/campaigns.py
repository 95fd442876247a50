"""What a sender reads of a campaign, and what it says about one: paused, and blocked by its relays."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, case, func, literal_column, select, update
from sqlalchemy.exc import NoResultFound
from sqlmodel import col

from shared.errors import DataError
from shared.faults.breakers import Breaker
from shared.ledger import breakers, campaigns, domains, spread, timeline
from shared.ledger.database import Ledger
from shared.ledger.models import LONGEST_REPLY, Campaign, Project
from shared.ledger.states import CampaignStatus

SHORT_BYTES = 16_384
"""A content up to this length is read with its campaign, and compiled at once: usually in 2 ms, in 50 ms at most. In a
thread it would take 15 ms beside a busy event loop. Megabytes of HTML take a while, and other campaigns go on."""


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """The columns of a campaign from which its emails are made."""

    project: str  # the project's name
    sender_id: str | None  # of the project: the last field of Feedback-ID
    project_id: UUID
    test_of: UUID | None  # the campaign that it tests
    from_email: str
    from_name: str
    reply_to: str | None
    reply_to_name: str | None
    relay_group: str | None
    envelope_from: str
    delivery: str
    max_retries: int
    retry_delay_seconds: int
    content_bytes: int  # of its content as it is stored
    bounce_domain: str | None = None  # of the domain in From


class ForeignDomainError(DataError):
    """The sender's domain belongs to another project."""


def _read(length: Any) -> Select[*tuple[Any, ...]]:
    return (
        select(
            col(Project.name),
            col(Project.sender_id),
            *(getattr(Campaign, field.name) for field in fields(CampaignRow)[2:-2]),
            length(col(Campaign.content)),
            case((length(col(Campaign.content)) <= literal_column(str(SHORT_BYTES)), col(Campaign.content))),
        )
        .join(Project, col(Project.id) == col(Campaign.project_id))
        .where(col(Campaign.id) == bindparam("campaign_id"))
    )


# Of a text PostgreSQL knows the bytes without reading it. SQLite counts characters.
_READ: Mapping[bool, Select[*tuple[Any, ...]]] = {False: _read(func.octet_length), True: _read(func.length)}


async def read(ledger: Ledger, campaign_id: UUID) -> tuple[CampaignRow, str | None]:
    """What a sender reads of a campaign, and what `read_content` returns if that has at most SHORT_BYTES. Raises
    NoResultFound if it is gone, ForeignDomainError if its sender is of a domain that belongs to another project."""
    found = await ledger.read_alone(_READ[ledger.is_sqlite], {"campaign_id": campaign_id})
    if not found:
        raise NoResultFound("the campaign is gone")
    *columns, short_content = found[0]
    row, bounce_domain = CampaignRow(*columns), None
    # The API has checked it, but the domain may have changed hands since.
    for domain in {_domain(row.from_email), _domain(row.envelope_from)}:
        owner = await domains.owner_alone(ledger, domain)
        if owner is not None and owner.project_id != row.project_id:
            raise ForeignDomainError(f"{domain} belongs to another project")
        if owner is not None and domain == _domain(row.from_email):
            bounce_domain = owner.bounce_domain
    return replace(row, bounce_domain=bounce_domain), short_content


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


async def read_content(ledger: Ledger, campaign_id: UUID) -> str:
    """A campaign's content, a CampaignContent as JSON. Raises NoResultFound if it is gone."""
    async with ledger.read() as connection:
        found = await connection.execute(select(col(Campaign.content)).where(col(Campaign.id) == campaign_id))
        return found.scalar_one()


async def pause(ledger: Ledger, campaign_id: UUID, reason: str) -> None:
    """Pauses a campaign that is being sent, and says why in its timeline."""
    async with ledger.write() as connection:
        is_paused = await campaigns.move(
            connection,
            campaign_id,
            CampaignStatus.PAUSED,
            from_=(CampaignStatus.SENDING,),
            reason=reason[:LONGEST_REPLY],
        )
        if is_paused:
            await timeline.record(connection, campaign_id, "paused", reason)


async def pause_for_relay(ledger: Ledger, campaign_id: UUID) -> bool:
    """Pauses a campaign one of whose relays has tripped the breaker."""
    async with ledger.write() as connection:
        reason = await breakers.relay_trouble(connection, campaign_id)
        return reason is not None and await breakers.pause(connection, campaign_id, Breaker.RELAY, reason)


async def pause_for_spread(ledger: Ledger, campaign_id: UUID) -> bool:
    """Pauses a campaign of which several recipients were refused in the same words."""
    async with ledger.write() as connection:
        return await spread.pause(connection, campaign_id)


async def set_blocked_by(ledger: Ledger, campaign_id: UUID, reason: str | None) -> None:
    """Says in a campaign and its timeline that no relay is available, or (None) that one is again."""
    differs = col(Campaign.blocked_by).is_(None) if reason else col(Campaign.blocked_by).is_not(None)
    async with ledger.write() as connection:
        changed = await connection.execute(
            update(Campaign)
            .where(col(Campaign.id) == campaign_id, differs)
            .values(blocked_by=reason and reason[:LONGEST_REPLY])
        )
        if changed.rowcount and reason:
            await timeline.record(connection, campaign_id, "blocked", f"No relay can be used: {reason}")
        elif changed.rowcount:
            await timeline.record(connection, campaign_id, "unblocked", "A relay can be used again")
