"""`POST /v1/domains/{domain}/check`: what receivers find in DNS about a domain of the project."""

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Request

from services.api.rest.auth import JsonRoute, key_required
from services.api.shapes.domain_checks import DomainCheckIn, DomainCheckOut, DomainFinding
from services.api.usecases.errors import NotFoundError, invalid
from services.api.web.context import ProjectDep
from services.api.web.problems import HttpError
from shared.addresses import AddressError, parse_domain
from shared.deliverability.check import Egress, Setup, Verdict, examine_domain
from shared.deliverability.dns import Dns
from shared.ledger import domains

AT_ONCE = 4
"""Checks that one process makes at a time: each may take 20 seconds and 100 questions to DNS."""

router = APIRouter(prefix="/v1/domains", tags=["domains"], route_class=JsonRoute, dependencies=[key_required])


class ChecksBusyError(HttpError):
    status = 503
    kind = "checks-busy"
    title = "Other domains are being checked"


@router.post("/{domain}/check", summary="Check a domain as receivers do")
async def check_domain(
    domain: Annotated[str, Path(max_length=253)], body: DomainCheckIn, project: ProjectDep, request: Request
) -> DomainCheckOut:
    """DMARC, alignment, SPF for the addresses you name, bounces, the unsubscribe link. It changes nothing. The DKIM key
    is compared by `vashsender doctor domain`, where the keys are."""
    name = await _own(domain, project)
    slots: asyncio.Semaphore = request.app.state.domain_checks
    if slots.locked():
        raise ChecksBusyError("Try again in some seconds.", headers={"Retry-After": "5"})
    async with slots:
        settings = project.api.settings
        setup = Setup(
            domain=name,
            envelope_domain=_envelope(body.envelope_domain) or name,
            signatures=None,
            egress=[Egress("the addresses given", tuple(body.egress))] if body.egress else None,
            public_url=settings.public_url,
        )
        findings = await examine_domain(Dns(settings.dns_servers), setup)
    return DomainCheckOut(
        domain=name,
        ok=all(finding.verdict is not Verdict.WRONG for finding in findings),
        findings=[DomainFinding.model_validate(asdict(finding)) for finding in findings],
    )


async def _own(domain: str, project: ProjectDep) -> str:
    """The domain as DNS has it. Raises NotFoundError unless it belongs to the project."""
    try:
        name = parse_domain(domain)
    except AddressError:
        raise NotFoundError("such domain") from None
    async with project.read() as connection:
        owner = await domains.owner(connection, name)
    if owner is None or owner.project_id != project.id:
        raise NotFoundError("such domain")
    return name


def _envelope(given: str | None) -> str | None:
    try:
        return parse_domain(given) if given else None
    except AddressError as error:
        raise invalid("#/envelope_domain", error.reason) from None
