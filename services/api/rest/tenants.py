"""`/v1/projects`, `/v1/keys`, `/v1/domains`, `/v1/sessions`: who may do what.

A key is shown once, so its answer is not stored: making one takes no Idempotency-Key."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Path, Request, Response

from services.api.rest.auth import JsonRoute, key_required
from services.api.rest.idempotency import Answer, OnceDep
from services.api.shapes.tenants import (
    DomainIn,
    DomainName,
    DomainOut,
    DomainPatch,
    Domains,
    KeyIn,
    Keys,
    MadeKeyOut,
    ProjectIn,
    ProjectOut,
    ProjectPatch,
    Projects,
    RotateIn,
    Sessions,
)
from services.api.usecases import domain_proof, tenants
from services.api.usecases.errors import UnprovenDomainError
from services.api.web.context import ProjectDep
from services.api.web.domain_checks import checks_of
from shared.signing import Use

SessionId = Annotated[str, Path(max_length=64, pattern="^[0-9a-f]+$")]

router = APIRouter(prefix="/v1", tags=["projects"], route_class=JsonRoute, dependencies=[key_required])


@router.get("/projects", summary="List projects, closed ones included")
async def list_projects(project: ProjectDep) -> Projects:
    async with project.read() as connection:
        return Projects(data=await tenants.list_projects(connection))


@router.post("/projects", status_code=201, response_model=ProjectOut, summary="Create a project")
async def create_project(body: ProjectIn, project: ProjectDep, once: OnceDep) -> Response:
    async with project.write() as connection:
        created = await tenants.create_project(connection, body.name)
        location = {"Location": f"/v1/projects/{created.id}"}
        answer = await once.keep(connection, Answer(201, created, location))
    return answer.response()


@router.get("/projects/{project_id}", summary="Show a project")
async def show_project(project_id: UUID, project: ProjectDep) -> ProjectOut:
    async with project.read() as connection:
        return await tenants.show_project(connection, project_id)


@router.patch("/projects/{project_id}", summary="Rename a project, or change what its emails say of it")
async def change_project(project_id: UUID, body: ProjectPatch, project: ProjectDep) -> ProjectOut:
    """The `List-Id` of its emails follows the name."""
    async with project.write() as connection:
        return await tenants.change_project(connection, project_id, body)


@router.post("/projects/{project_id}/close", response_model=ProjectOut, summary="Close a project")
async def close_project(project_id: UUID, project: ProjectDep, once: OnceDep) -> Response:
    """Its keys are refused from then on, and its data stays. Not while a campaign is scheduled or under way."""
    async with project.write() as connection:
        closed = await tenants.close_project(connection, project_id)
        answer = await once.keep(connection, Answer(200, closed))
    return answer.response()


@router.get("/keys", summary="List keys without their secrets, revoked ones included")
async def list_keys(project: ProjectDep) -> Keys:
    async with project.read() as connection:
        return Keys(data=await tenants.list_keys(connection))


@router.post("/keys", status_code=201, summary="Create a key")
async def create_key(body: KeyIn, project: ProjectDep) -> MadeKeyOut:
    """The key is in this answer only. If it is lost, create another and revoke this one."""
    async with project.write() as connection:
        return await tenants.create_key(connection, project.tenant, body)


@router.post("/keys/{key_id}/rotate", status_code=201, summary="Create a key that may do the same")
async def rotate_key(key_id: UUID, project: ProjectDep, body: Annotated[RotateIn, Body()] = RotateIn()) -> MadeKeyOut:
    """The old key expires after `overlap_hours`."""
    async with project.write() as connection:
        return await tenants.rotate_key(connection, key_id, body.overlap_hours)


@router.delete("/keys/{key_id}", status_code=204, summary="Revoke a key at once")
async def revoke_key(key_id: UUID, project: ProjectDep) -> None:
    async with project.write() as connection:
        await tenants.revoke_key(connection, key_id)


@router.get("/domains", summary="List domains of the project; for an operator, of all")
async def list_domains(project: ProjectDep) -> Domains:
    async with project.read() as connection:
        return Domains(data=await tenants.list_domains(connection, project.tenant))


@router.post("/domains", status_code=201, response_model=DomainOut, summary="Give a domain to a project")
async def add_domain(body: DomainIn, project: ProjectDep, once: OnceDep) -> Response:
    """Only that project sends from it, and from the domains below it."""
    async with project.write() as connection:
        added = await tenants.add_domain(connection, project.tenant, body)
        answer = await once.keep(connection, Answer(201, added))
    return answer.response()


@router.post(
    "/domains/{name}/prove", status_code=201, response_model=DomainOut, summary="Prove a domain by a TXT record"
)
async def prove_domain(
    name: Annotated[DomainName, Path()], project: ProjectDep, request: Request, once: OnceDep
) -> Response:
    """Gives the project a domain that belongs to no project. Until its record is found, `unproven-domain` says which
    record to publish."""
    async with project.read() as connection:
        found = await domain_proof.provable(connection, project.tenant, name)
    if found is None:
        proof = domain_proof.proof_of(project.api.settings.signing_keys(Use.DOMAIN), project.id, name)
        if why := await checks_of(request).unpublished(project.api, proof.name, proof.texts):
            raise UnprovenDomainError(proof.name, proof.texts[0], why)
    async with project.write() as connection:
        added = await domain_proof.add_proven(connection, project.tenant, name)
        answer = await once.keep(connection, Answer(201, added))
    return answer.response()


@router.patch("/domains/{name}", summary="Name the domain that takes its bounces")
async def change_domain(name: Annotated[DomainName, Path()], body: DomainPatch, project: ProjectDep) -> DomainOut:
    """Emails that senders have in their memory, up to some minutes old, still use the old one."""
    async with project.write() as connection:
        return await tenants.change_domain(connection, project.tenant, name, body)


@router.delete("/domains/{name}", status_code=204, summary="Take a domain from its project")
async def remove_domain(name: Annotated[DomainName, Path()], project: ProjectDep) -> None:
    async with project.write() as connection:
        await tenants.remove_domain(connection, project.tenant, name)


@router.get("/sessions", summary="List who is signed in to the page")
async def list_sessions(project: ProjectDep) -> Sessions:
    """With the key that asks; an operator sees all."""
    async with project.read() as connection:
        return Sessions(data=await tenants.list_sessions(connection, project.tenant))


@router.delete("/sessions/{session_id}", status_code=204, summary="End a session at once")
async def end_session(
    session_id: Annotated[str, Path(max_length=64, pattern="^[0-9a-f]+$")], project: ProjectDep
) -> None:
    async with project.write() as connection:
        await tenants.end_session(connection, project.tenant, session_id)
