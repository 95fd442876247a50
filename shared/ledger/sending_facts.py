"""What senders say about how mail leaves: the public parts of their DKIM keys, and the addresses of their relays.

The API checks domains, and may have neither the keys nor the relays' passwords. Nothing here is secret."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from shared.ledger import rows
from shared.ledger.database import Ledger, db_now
from shared.ledger.models import SendingFact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

SAY_SECONDS = 3600.0
"""How often a sender says it again."""
LIFE_SECONDS = 86_400.0
"""For how long it counts."""
FACTS_AT_ONCE = 200
"""Written in one transaction."""

_DKIM, _EGRESS = "dkim", "egress"


@dataclass(frozen=True, slots=True)
class DkimFact:
    """The key that signs for a domain."""

    domain: str
    selector: str
    key: "RSAPublicKey"


@dataclass(frozen=True, slots=True)
class EgressFact:
    """A relay, and the addresses its mail leaves from; empty if they are not known."""

    relay: str
    addresses: tuple[str, ...]


async def say(ledger: Ledger, dkim: Iterable[DkimFact], egress: Iterable[EgressFact]) -> None:
    """Writes what this sender knows, and deletes what no sender has said for a long time."""
    said = [(_DKIM, one.domain, f"{one.selector} {_text(one.key)}") for one in dkim]
    said += [(_EGRESS, one.relay, " ".join(one.addresses)) for one in egress]
    for first in range(0, len(said), FACTS_AT_ONCE):
        async with ledger.write() as connection:
            for kind, name, value in sorted(said[first : first + FACTS_AT_ONCE]):  # one order, to avoid deadlocks
                new = {"kind": kind, "name": name, "value": value, "at": db_now()}
                await rows.upsert(connection, SendingFact, new, key=("kind", "name"))
    async with ledger.write() as connection:
        await connection.execute(delete(SendingFact).where(col(SendingFact.at) < db_now() - LIFE_SECONDS))


async def egress(connection: AsyncConnection) -> Sequence[EgressFact] | None:
    """The relays by name; None if no sender has said anything lately."""
    found = await _read(connection, _EGRESS)
    return [EgressFact(name, tuple(value.split())) for name, value in found.items()] or None


async def dkim(connection: AsyncConnection, domain: str) -> DkimFact | None:
    """The key that signs for exactly this domain."""
    value = (await _read(connection, _DKIM, domain)).get(domain)
    if value is None:
        return None
    # Megabytes that a service needs only here.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    selector, _, text = value.partition(" ")
    key = load_der_public_key(b64decode(text))
    assert isinstance(key, RSAPublicKey), f"{domain}: only RSA keys sign"
    return DkimFact(domain, selector, key)


async def _read(connection: AsyncConnection, kind: str, name: str | None = None) -> Mapping[str, str]:
    wanted = [col(SendingFact.kind) == kind, col(SendingFact.at) >= db_now() - LIFE_SECONDS]
    if name is not None:
        wanted.append(col(SendingFact.name) == name)
    query = select(col(SendingFact.name), col(SendingFact.value)).where(*wanted).order_by(col(SendingFact.name))
    return {row[0]: row[1] for row in await connection.execute(query)}


def _text(key: "RSAPublicKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
