"""Projects, keys, domains and sessions: shown and changed."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.shapes.tenants import (
    DomainIn,
    DomainOut,
    DomainPatch,
    KeyIn,
    KeyOut,
    MadeKeyOut,
    ProjectOut,
    ProjectPatch,
    SessionOut,
    made_key,
)
from services.api.usecases.acts import about
from services.api.usecases.errors import (
    ClosedProjectError,
    DomainTakenError,
    NotFoundError,
    StillOpenError,
    TakenNameError,
    invalid,
)
from services.api.usecases.tenant import Tenant
from shared.ledger import domains, keys, projects, sessions
from shared.ledger.keys import NewKey
from shared.ledger.projects import ProjectRow
from shared.scopes import Scope

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0


async def list_projects(connection: AsyncConnection) -> list[ProjectOut]:
    return [ProjectOut.model_validate(one) for one in await projects.list_projects(connection)]


async def create_project(connection: AsyncConnection, name: str) -> ProjectOut:
    """Raises TakenNameError."""
    try:
        created = await projects.create(connection, name)
    except projects.NameTakenError as error:
        raise TakenNameError(str(error)) from None
    about(project=created.id)
    return ProjectOut.model_validate(created)


async def show_project(connection: AsyncConnection, project_id: UUID) -> ProjectOut:
    """Raises NotFoundError."""
    return ProjectOut.model_validate(await _project(connection, project_id))


async def change_project(connection: AsyncConnection, project_id: UUID, patch: ProjectPatch) -> ProjectOut:
    """Changes what the patch sets. Raises NotFoundError, InvalidError and TakenNameError."""
    project = await _project(connection, project_id)
    given = patch.model_dump(include=patch.model_fields_set)
    if "name" in given:
        if given["name"] is None:
            raise invalid("#/name", "cannot be null; leave it out to keep it")
        try:
            project = await projects.rename(connection, project, given.pop("name"))
        except projects.NameTakenError as error:
            raise TakenNameError(str(error)) from None
    return ProjectOut.model_validate(await projects.change(connection, project, given))


async def close_project(connection: AsyncConnection, project_id: UUID) -> ProjectOut:
    """Raises NotFoundError and StillOpenError."""
    project = await _project(connection, project_id)
    try:
        return ProjectOut.model_validate(await projects.close(connection, project))
    except projects.ProjectError as error:
        raise StillOpenError(f"{error}.") from None


async def list_keys(connection: AsyncConnection) -> list[KeyOut]:
    return [KeyOut.model_validate(key) for key in await keys.list_keys(connection)]


async def create_key(connection: AsyncConnection, tenant: Tenant, given: KeyIn) -> MadeKeyOut:
    """Raises InvalidError for a project that does not exist, ClosedProjectError for one that is closed."""
    project = await _open_project(connection, tenant, given.project_id)
    wanted = NewKey(
        given.name,
        project.id,
        None if given.scopes is None else frozenset(given.scopes),
        None if given.expires_days is None else given.expires_days * DAY_SECONDS,
        None if given.domains is None else tuple(sorted(set(given.domains))),
    )
    key_id, secret = await keys.create(connection, wanted)
    return await _made(connection, key_id, secret)


async def rotate_key(connection: AsyncConnection, key_id: UUID, overlap_hours: float) -> MadeKeyOut:
    """Raises NotFoundError for a key that is not valid."""
    key = await keys.find(connection, key_id=key_id)
    made = None if key is None else await keys.rotate(connection, key, overlap_hours * HOUR_SECONDS)
    if made is None:
        raise NotFoundError("valid key with this id")
    return await _made(connection, *made)


async def revoke_key(connection: AsyncConnection, key_id: UUID) -> None:
    """Raises NotFoundError for a key that was revoked before."""
    if not await keys.revoke_key(connection, key_id):
        raise NotFoundError("valid key with this id")


async def list_domains(connection: AsyncConnection, tenant: Tenant) -> list[DomainOut]:
    """Those of the project; for an operator all."""
    of = None if _is_operator(tenant) else tenant.project_id
    return [DomainOut.model_validate(one) for one in await domains.list_domains(connection, of)]


async def add_domain(connection: AsyncConnection, tenant: Tenant, given: DomainIn) -> DomainOut:
    """Gives a domain to a project, as an operator. Raises InvalidError, ClosedProjectError and DomainTakenError."""
    project = await _open_project(connection, tenant, given.project_id)
    about(domain=given.name, project=project.id)
    try:
        return DomainOut.model_validate(await domains.add(connection, given.name, project.id, "operator"))
    except domains.DomainTakenError as error:
        raise DomainTakenError(f"{error}.") from None


async def change_domain(connection: AsyncConnection, tenant: Tenant, name: str, patch: DomainPatch) -> DomainOut:
    """Changes what the patch sets. Raises NotFoundError, and InvalidError for a bounce domain that cannot be used."""
    domain = await domains.find(connection, name)
    if domain is None or not (_is_operator(tenant) or domain.project_id == tenant.project_id):
        raise NotFoundError("domain of this name")
    if "bounce_domain" in patch.model_fields_set:
        about(domain=name, bounce_domain=patch.bounce_domain)
        try:
            domain = await domains.set_bounce_domain(connection, domain, patch.bounce_domain)
        except (domains.BounceDomainError, domains.DomainTakenError) as error:
            raise invalid("#/bounce_domain", str(error)) from None
    return DomainOut.model_validate(domain)


async def remove_domain(connection: AsyncConnection, tenant: Tenant, name: str) -> None:
    """Raises NotFoundError."""
    of = None if _is_operator(tenant) else tenant.project_id
    if not await domains.remove(connection, name, of):
        raise NotFoundError("domain of this name")


async def list_sessions(connection: AsyncConnection, tenant: Tenant) -> list[SessionOut]:
    """Sessions that are not over, newest first: of the key, or for an operator all."""
    of = None if _is_operator(tenant) else tenant.key.id
    return [SessionOut.model_validate(one) for one in await sessions.live(connection, of)]


async def end_session(connection: AsyncConnection, tenant: Tenant, session_id: str) -> None:
    """Raises NotFoundError."""
    of = None if _is_operator(tenant) else tenant.key.id
    if not await sessions.end(connection, session_id, of):
        raise NotFoundError("session with this id")


def _is_operator(tenant: Tenant) -> bool:
    return Scope.OPERATOR in tenant.key.scopes


async def _project(connection: AsyncConnection, project_id: UUID) -> ProjectRow:
    found = await projects.find(connection, project_id=project_id)
    if found is None:
        raise NotFoundError("project with this id")
    return found


async def _open_project(connection: AsyncConnection, tenant: Tenant, project_id: UUID | None) -> ProjectRow:
    found = await projects.find(connection, project_id=project_id or tenant.project_id)
    if found is None:
        raise invalid("#/project_id", "there is no such project")
    if found.closed_at is not None:
        raise ClosedProjectError(f"The project {found.name} is closed.")
    return found


async def _made(connection: AsyncConnection, key_id: UUID, secret: str) -> MadeKeyOut:
    about(new_key=key_id)
    key = next(one for one in await keys.list_keys(connection) if one.id == key_id)
    return made_key(KeyOut.model_validate(key), secret)
