"""Projects: created, renamed, closed. A closed project keeps its data; its keys are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import bindparam, exists, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from uuid6 import uuid7

from shared.errors import DataError
from shared.ledger import rows
from shared.ledger.campaigns import not_closed
from shared.ledger.database import db_now
from shared.ledger.models import DEFAULT_PROJECT, Campaign, Project


class ProjectError(DataError):
    """The project cannot be created, renamed or closed as it was asked for."""


class NameTakenError(ProjectError):
    """Another project has this name."""


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """One project. Moments are seconds since 1970."""

    id: UUID
    name: str
    created_at: float
    closed_at: float | None
    #: The last field of Feedback-ID; None: `vashsender`.
    sender_id: str | None
    #: Limits of the API. None: the settings.
    tests_per_hour: int | None
    open_imports: int | None
    open_streams: int | None
    #: Days for which results are kept; 0: for ever. None: the setting.
    retention_days: int | None


_PROJECTS = select(Project.__table__)  # type: ignore[attr-defined]
_LOCK = rows.locking(
    Project.name,
    col(Project.id) == bindparam("project_id"),
    returning=tuple(Project.__table__.columns),  # type: ignore[attr-defined]
)
_MARKS = ("tests_per_hour", "open_imports", "open_streams", "sender_id", "retention_days")


async def list_projects(connection: AsyncConnection) -> Sequence[ProjectRow]:
    """All projects by name, closed ones included."""
    found = await connection.execute(_PROJECTS.order_by(col(Project.name)))
    return [ProjectRow(**row._mapping) for row in found]


async def find(
    connection: AsyncConnection, *, project_id: UUID | None = None, name: str | None = None
) -> ProjectRow | None:
    """The project with this id, or with this name."""
    wanted = col(Project.name) == name if project_id is None else col(Project.id) == project_id
    row = (await connection.execute(_PROJECTS.where(wanted))).first()
    return None if row is None else ProjectRow(**row._mapping)


async def create(connection: AsyncConnection, name: str) -> ProjectRow:
    """Raises NameTakenError."""
    project_id = UUID(int=uuid7().int)
    new = rows.insert_missing(connection, Project).values(id=project_id, name=name, created_at=db_now())
    if (await connection.execute(new)).rowcount == 0:
        raise _taken(name)
    return await _found(connection, project_id)


async def rename(connection: AsyncConnection, project: ProjectRow, name: str) -> ProjectRow:
    """The List-Id of its emails follows. Raises NameTakenError."""
    try:
        await connection.execute(update(Project).where(col(Project.id) == project.id).values(name=name))
    except IntegrityError:
        raise _taken(name) from None
    return await _found(connection, project.id)


async def change(connection: AsyncConnection, project: ProjectRow, values: Mapping[str, object]) -> ProjectRow:
    """Changes its limits of the API, its `sender_id` and its retention."""
    changed = {name: value for name, value in values.items() if name in _MARKS}
    if changed:
        await connection.execute(update(Project).where(col(Project.id) == project.id).values(**changed))
    return await _found(connection, project.id)


async def close(connection: AsyncConnection, project: ProjectRow) -> ProjectRow:
    """Its keys are refused from then on; its campaigns, domains and suppressions stay. Raises ProjectError for
    `default`, and while a campaign of it is under way or scheduled."""
    if project.id == DEFAULT_PROJECT:
        raise ProjectError("the project `default` cannot be closed: links and keys made before projects belong to it")
    # Locked, so that no campaign is sent between the look and the change.
    await lock(connection, project.id)
    under_way = select(exists().where(col(Campaign.project_id) == project.id, not_closed()))
    if await connection.scalar(under_way):
        raise ProjectError(f"a campaign of {project.name} is scheduled or under way: cancel it, or wait for its end")
    await connection.execute(
        update(Project)
        .where(col(Project.id) == project.id)
        .values(closed_at=func.coalesce(col(Project.closed_at), db_now()))
    )
    return await _found(connection, project.id)


async def lock(connection: AsyncConnection, project_id: UUID) -> ProjectRow | None:
    """The project, locked until the transaction ends."""
    row = (await connection.execute(_LOCK, {"project_id": project_id})).first()
    return None if row is None else ProjectRow(**row._mapping)


async def _found(connection: AsyncConnection, project_id: UUID) -> ProjectRow:
    found = await find(connection, project_id=project_id)
    assert found is not None
    return found


def _taken(name: str) -> NameTakenError:
    return NameTakenError(f"there is a project {name} already: choose another name")
