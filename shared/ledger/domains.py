"""Domains: each belongs to one project, and only that project sends from it.

A domain includes those below it, unless one of them has an owner itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import String, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.errors import DataError
from shared.ledger import rows
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import Project
from shared.ledger.tenants import Domain

MadeBy = Literal["operator", "dns", "used"]


class BounceDomainError(DataError):
    """SPF could never be aligned with it."""


class DomainTakenError(DataError):
    """The domain belongs to another project."""


@dataclass(frozen=True, slots=True)
class DomainRow:
    """One domain. `created_at` is in seconds since 1970."""

    name: str
    project_id: UUID
    #: The project's name.
    project: str
    made_by: MadeBy
    created_at: float
    #: Takes bounces of its mail; None: they go to the address in From.
    bounce_domain: str | None = None


_DOMAINS: Any = select(
    col(Domain.name),
    col(Domain.project_id),
    col(Project.name).label("project"),
    col(Domain.made_by),
    col(Domain.created_at),
    col(Domain.bounce_domain),
).join(Project.__table__, col(Project.id) == col(Domain.project_id))  # type: ignore[attr-defined]


_NEAREST = rows.among(
    col(Domain.name),
    String,
    "names",
    lambda one_of: _DOMAINS.where(one_of).order_by(func.length(col(Domain.name)).desc()).limit(1),
)


async def list_domains(connection: AsyncConnection, project_id: UUID | None = None) -> Sequence[DomainRow]:
    """Domains by name: of a project, or (None) of all."""
    wanted = _DOMAINS if project_id is None else _DOMAINS.where(col(Domain.project_id) == project_id)
    return [DomainRow(*row) for row in await connection.execute(wanted.order_by(col(Domain.name)))]


async def find(connection: AsyncConnection, name: str) -> DomainRow | None:
    """The domain with exactly this name."""
    row = (await connection.execute(_DOMAINS.where(col(Domain.name) == name))).first()
    return None if row is None else DomainRow(*row)


async def owner(connection: AsyncConnection, name: str) -> DomainRow | None:
    """The domain by which this name belongs to a project: itself, or else the nearest above it."""
    row = (await connection.execute(_NEAREST[connection.dialect.name], _and_above(name))).first()
    return None if row is None else DomainRow(*row)


async def owner_alone(ledger: Ledger, name: str) -> DomainRow | None:
    """`owner`, straight by the driver."""
    row = next(iter(await ledger.read_alone(_NEAREST[ledger.dialect], _and_above(name))), None)
    return None if row is None else DomainRow(*row)


def _and_above(name: str) -> Mapping[str, Sequence[str]]:
    labels = name.split(".")
    return {"names": [".".join(labels[first:]) for first in range(len(labels))]}


async def add(connection: AsyncConnection, name: str, project_id: UUID, made_by: MadeBy) -> DomainRow:
    """Gives a domain (lower case, A-labels) to a project; no change if it has it. Raises DomainTakenError."""
    new = rows.insert_missing(connection, Domain).values(
        name=name, project_id=project_id, made_by=made_by, created_at=db_now()
    )
    await connection.execute(new)
    found = await find(connection, name)
    if found is None or found.project_id != project_id:
        raise DomainTakenError(f"{name} belongs to another project: an operator removes it there first")
    return found


def may_take_bounces(domain: str, bounce_domain: str) -> bool:
    """Whether two domains may have the same organizational domain, so that SPF stays aligned: they have the same last
    two labels. `doctor domain` asks DNS for the organizational domain itself."""
    labels = bounce_domain.split(".")
    return len(labels) > 1 and labels[-2:] == domain.split(".")[-2:]


async def set_bounce_domain(connection: AsyncConnection, domain: DomainRow, bounce_domain: str | None) -> DomainRow:
    """Raises DomainTakenError if the bounce domain belongs to another project, BounceDomainError if it cannot be
    aligned with the domain."""
    if bounce_domain is not None:
        if not may_take_bounces(domain.name, bounce_domain):
            raise BounceDomainError(f"{bounce_domain} and {domain.name} have no organizational domain in common")
        holder = await owner(connection, bounce_domain)
        if holder is not None and holder.project_id != domain.project_id:
            raise DomainTakenError(f"{bounce_domain} belongs to another project")
    changed = update(Domain).where(col(Domain.name) == domain.name).values(bounce_domain=bounce_domain)
    await connection.execute(changed)
    return replace(domain, bounce_domain=bounce_domain)


async def remove(connection: AsyncConnection, name: str, project_id: UUID | None = None) -> bool:
    """Takes a domain from its project; with `project_id` only from that one. False if there is none."""
    wanted = [col(Domain.name) == name] + ([] if project_id is None else [col(Domain.project_id) == project_id])
    return (await connection.execute(delete(Domain).where(*wanted))).rowcount > 0
