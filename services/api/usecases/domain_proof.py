"""The TXT record by which a project proves that a domain is its own: an alternative to asking an operator.

The text depends on the project and the domain, so one project's record proves nothing for another."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.shapes.tenants import DomainOut
from services.api.usecases.acts import about
from services.api.usecases.errors import DomainTakenError, ForeignDomainError
from services.api.usecases.tenant import Tenant
from shared import signing
from shared.ledger import domains

LABEL = "_vashsender"
PREFIX = "vashsender-domain="

_PURPOSE = b"vashsender domain proof 1\0"
_OCTETS = 20


class Proof(NamedTuple):
    """A TXT record."""

    name: str
    #: Any of them proves the domain: one for each signing key, the newest first.
    texts: Sequence[str]


def proof_of(signing_keys: Sequence[bytes], project_id: UUID, domain: str) -> Proof:
    """The record that proves a domain (lower case, A-labels) for a project."""
    payload = project_id.bytes + domain.encode("ascii")
    macs = (signing.mac(key, _PURPOSE, payload)[:_OCTETS].hex() for key in signing_keys)
    return Proof(f"{LABEL}.{domain}", [f"{PREFIX}{mac}" for mac in macs])


async def provable(connection: AsyncConnection, tenant: Tenant, domain: str) -> DomainOut | None:
    """The domain if it is the project's already; None if the project may prove it. Raises DomainTakenError if it
    belongs to another project, by itself or by a domain above it, and ForeignDomainError if the key may not use it."""
    if not tenant.key.may_send_from(domain):
        allowed = " ".join(tenant.key.sender_domains or ())
        raise ForeignDomainError("#/name", domain, f"this key sends only from {allowed}")
    owner = await domains.owner(connection, domain)
    if owner is None:
        return None
    if owner.project_id != tenant.project_id:
        raise DomainTakenError(f"{domain} belongs to another project: only an operator can change that.")
    return DomainOut.model_validate(owner) if owner.name == domain else None


async def add_proven(connection: AsyncConnection, tenant: Tenant, domain: str) -> DomainOut:
    """Gives the project a domain whose record was found. Raises what `provable` raises, and ClosedProjectError."""
    project = await tenant.require_open(connection)
    if (own := await provable(connection, tenant, domain)) is not None:
        return own
    about(domain=domain, project=project.id)
    try:
        return DomainOut.model_validate(await domains.add(connection, domain, project.id, "dns"))
    except domains.DomainTakenError as error:  # another project was faster
        raise DomainTakenError(f"{error}.") from None
