"""The addresses that take mail: tokens at bounce domains, and the few names that each of these domains needs."""

import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from services.feedback.grouped import Grouped
from shared.email_tokens import BOUNCE, TOKEN, UNSUBSCRIBE
from shared.ledger import probes
from shared.ledger.database import Ledger
from shared.ledger.forgetting.people import Forgotten
from shared.ledger.report_people import Person, forgotten_all, identify_all
from shared.ledger.tenants import Domain

KNOWN_SECONDS = 10.0
"""How long the bounce domains are remembered."""

NAMES = frozenset({"postmaster", "abuse", "complaints", "fbl", "mailer-daemon"})
"""For people and for complaints: which email they are about is found in them."""


class WrongTokenError(Exception):
    """The address has a token that is not ours, or is another project's."""


class UnknownAddressError(Exception):
    """No mail is taken for it."""


class Addresses:
    """Judges the recipients of mail that comes in. Those of all connections are looked up in groups."""

    def __init__(self, ledger: Ledger, secrets: Sequence[bytes]) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._domains: Mapping[str, UUID] = {}
        self._read_at = -KNOWN_SECONDS
        self._grouped = Grouped(self._identify)

    async def run(self) -> None:
        """Looks up until it is cancelled."""
        await self._grouped.run()

    async def check(self, address: str) -> UUID | None:
        """The project that an address belongs to; None for `postmaster` without a domain.

        Raises UnknownAddressError and WrongTokenError if it takes no mail, and what the database raises."""
        local, at, domain = address.rpartition("@")
        local = local.lower()
        if not at:  # RFC 5321, 4.5.1
            if address.lower() == "postmaster":
                return None
            raise UnknownAddressError
        project_id = await self._owner(domain.lower().rstrip("."))
        if project_id is None:
            raise UnknownAddressError
        if (probe := probes.token_in(address)) is not None:
            async with self._ledger.read() as connection:
                if not await probes.is_awaited(connection, probe):
                    raise WrongTokenError
            return project_id
        if local in NAMES:
            return project_id
        token = local.removeprefix(BOUNCE).removeprefix(UNSUBSCRIBE)
        if token == local or not TOKEN.fullmatch(token):
            raise UnknownAddressError
        person = await self._grouped.do(token)
        if person is None or person.project_id != project_id:
            raise WrongTokenError
        return project_id

    async def _identify(self, tokens: Sequence[str]) -> Sequence[Person | Forgotten | None]:
        async with self._ledger.read() as connection:
            people = await identify_all(connection, self._secrets, [[token] for token in tokens])
            unknown = [() if person else (token,) for token, person in zip(tokens, people, strict=True)]
            if not any(unknown):
                return people
            forgotten = await forgotten_all(connection, self._secrets, unknown)
            return [person or late for person, late in zip(people, forgotten, strict=True)]

    async def _owner(self, domain: str) -> UUID | None:
        """The project that a bounce domain belongs to. One that is not known yet is looked for at once."""
        age = time.monotonic() - self._read_at
        if age > KNOWN_SECONDS or (domain not in self._domains and age > 1):
            async with self._ledger.read() as connection:
                found = await connection.execute(
                    select(col(Domain.bounce_domain), col(Domain.project_id)).where(
                        col(Domain.bounce_domain).is_not(None)
                    )
                )
                self._domains = {str(row[0]): row[1] for row in found}
            self._read_at = time.monotonic()
        return self._domains.get(domain)
