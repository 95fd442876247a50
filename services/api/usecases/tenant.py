"""The project that asks, and the domains it may send from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.usecases.errors import ClosedProjectError, ForeignDomainError
from services.api.usecases.quotas import Limits
from shared.ledger import domains, projects
from shared.ledger.domains import DomainRow
from shared.ledger.keys import Key
from shared.ledger.projects import ProjectRow


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks: a key of a project."""

    key: Key
    #: False in development: a domain that belongs to no project may be used.
    needs_own_domain: bool
    #: Of a project that sets none.
    limits: Limits
    #: See CommonSettings.hash_roots.
    hash_roots: Sequence[bytes]

    @property
    def project_id(self) -> UUID:
        return self.key.project_id

    async def require_domains(self, connection: AsyncConnection, addresses: Mapping[str, str]) -> None:
        """Raises ForeignDomainError if one of the senders' addresses, by the pointers to them, is of a domain that the
        key or its project may not send from."""
        owners: dict[str, DomainRow | None] = {}
        for pointer, address in addresses.items():
            domain = address.rpartition("@")[2]
            if not self.key.may_send_from(domain):
                raise ForeignDomainError(
                    pointer, domain, f"this key sends only from {' '.join(self.key.sender_domains or ())}"
                )
            if domain not in owners:
                owners[domain] = await domains.owner(connection, domain)
            found = owners[domain]
            if found is None and not self.needs_own_domain:
                continue
            if found is None or found.project_id != self.project_id:
                raise ForeignDomainError(
                    pointer,
                    domain,
                    f"it does not belong to the project {self.key.project}; an operator gives it to the project:"
                    f" `vashsender domain add {domain} --project '{self.key.project}'`",
                )

    async def require_open(self, connection: AsyncConnection) -> ProjectRow:
        """The project, locked until the transaction ends. Raises ClosedProjectError if it is closed."""
        project = await projects.lock(connection, self.project_id)
        if project is None or project.closed_at is not None:
            raise ClosedProjectError(f"The project {self.key.project} was closed, so it sends nothing.")
        return project
