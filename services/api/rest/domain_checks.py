"""`POST /v1/domains/{domain}/check`: what receivers find in DNS about a domain of the project."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.domain_checks import DomainCheckIn, DomainCheckOut, DomainFinding
from services.api.usecases.errors import NotFoundError, invalid
from services.api.web.context import ProjectDep
from services.api.web.domain_checks import checks_of
from shared.addresses import AddressError, parse_domain
from shared.deliverability.check import Egress, Verdict
from shared.ledger import domains

router = APIRouter(prefix="/v1/domains", tags=["domains"], route_class=JsonRoute, dependencies=[key_required])


@router.post("/{domain}/check", summary="Check a domain as receivers do")
async def check_domain(
    domain: Annotated[str, Path(max_length=253)],
    project: ProjectDep,
    request: Request,
    body: Annotated[DomainCheckIn, Body()] = DomainCheckIn(),
) -> DomainCheckOut:
    """DMARC, alignment, DKIM, SPF, bounces, the unsubscribe link. It changes nothing. What it compares with, our DKIM
    key and the addresses of the relays, is what the senders say."""
    name, bounce_domain = await _own(domain, project)
    egress = [Egress("the addresses given", tuple(body.egress))] if body.egress else None
    envelope = _envelope(body.envelope_domain) or bounce_domain or name
    findings = await checks_of(request).check(project.api, name, envelope, egress)
    return DomainCheckOut(
        domain=name,
        ok=all(finding.verdict is not Verdict.WRONG for finding in findings),
        findings=[DomainFinding.model_validate(finding) for finding in findings],
    )


async def _own(domain: str, project: ProjectDep) -> tuple[str, str | None]:
    """The domain as DNS has it, and where its bounces go. Raises NotFoundError unless it belongs to the project."""
    try:
        name = parse_domain(domain)
    except AddressError:
        raise NotFoundError("such domain") from None
    async with project.read() as connection:
        owner = await domains.owner(connection, name)
    if owner is None or owner.project_id != project.id:
        raise NotFoundError("such domain")
    return name, owner.bounce_domain


def _envelope(given: str | None) -> str | None:
    try:
        return parse_domain(given) if given else None
    except AddressError as error:
        raise invalid("#/envelope_domain", error.reason) from None
