"""Signing in to the page: links that do it once, and the sessions that follow. Both are signed tokens of one API key.

Their payload is key id (16 octets), expiry (8, in whole seconds of the ledger's clock) and a nonce (12): 72 characters.
A link expires soon, and the page accepts it only once. A token is not enough by itself: its key must be valid whenever
it is presented, so revoking the key ends its links and sessions.
"""

import secrets
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared import signing
from shared.errors import DataError
from shared.ledger import keys
from shared.ledger.database import clock
from shared.settings import SIGN_IN_LINK_SECONDS

LINK_SECONDS = SIGN_IN_LINK_SECONDS
PATH = "/sign-in"

_NONCE_OCTETS = 12
_PAYLOAD_OCTETS = 36


class Purpose(Enum):
    """What a token is for. A token made for one purpose is refused for the other."""

    LINK = b"vashsender sign-in link 1\0"
    SESSION = b"vashsender session 1\0"


class Pass(NamedTuple):
    """What a token says."""

    key_id: UUID
    until: int  # the ledger's seconds
    nonce: str  # differs from token to token


def make_token(secret: bytes, purpose: Purpose, key_id: UUID, until: float) -> str:
    """A token of a key that expires at `until`, in the ledger's seconds."""
    payload = key_id.bytes + int(until).to_bytes(8, "big") + secrets.token_bytes(_NONCE_OCTETS)
    return signing.make_token(secret, purpose.value, payload)


def read_token(signing_keys: Sequence[bytes], purpose: Purpose, token: str) -> Pass:
    """What the token says, if one of the signing keys (newest first) has signed it. Raises signing.TokenError. The
    caller checks whether it has expired."""
    payload = signing.read_token(signing_keys, purpose.value, token, _PAYLOAD_OCTETS)
    return Pass(UUID(bytes=payload[:16]), int.from_bytes(payload[16:24], "big"), payload[24:].hex())


async def make_link(connection: AsyncConnection, secret: bytes, api_key: str, base_url: str) -> str:
    """The address that signs a person in, once, within LINK_SECONDS. `secret` is the newest key of `Use.SIGN_IN`,
    `base_url` where the API is reached. Raises DataError for a key that is wrong or revoked."""
    key = await keys.find(connection, secret=api_key)
    if key is None:
        raise DataError("This API key is wrong or revoked: `vashsender key list` shows which exist.")
    token = make_token(secret, Purpose.LINK, key.id, await clock(connection) + LINK_SECONDS)
    return f"{base_url.rstrip('/')}{PATH}/{token}"
