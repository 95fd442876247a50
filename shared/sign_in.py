"""Signing in to the page: links that do it once, and the sessions that follow. Both are signed tokens of one API key.

A token is base64url of key id (16 octets), end (8, in the ledger's whole seconds), nonce (12) and an HMAC-SHA256 cut to
144 bits: 72 characters. A link is short-lived, and the page takes each only once. A token says nothing by itself: the
key must still be good whenever one is presented, so revoking the key ends its links and sessions.
"""

import binascii
import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.errors import DataError
from shared.ledger import keys
from shared.ledger.database import clock

LINK_SECONDS = 900
PATH = "/sign-in"

_NONCE_OCTETS = 12
_MAC_OCTETS = 18
_TOKEN = re.compile(r"[A-Za-z0-9_-]{72}")


class Purpose(Enum):
    """What a token is for; one made for the one is never taken for the other."""

    LINK = b"vashsender sign-in link 1\0"
    SESSION = b"vashsender session 1\0"


class Pass(NamedTuple):
    """What a token says: whose key, until when (the ledger's seconds), and what tells it from the others."""

    key_id: UUID
    until: int
    nonce: str


class PassError(DataError):
    """The token is damaged or was not made here."""


def make_token(secret: bytes, purpose: Purpose, key_id: UUID, until: float) -> str:
    """A token of a key that is good until a moment in the ledger's seconds."""
    payload = key_id.bytes + int(until).to_bytes(8, "big") + secrets.token_bytes(_NONCE_OCTETS)
    return urlsafe_b64encode(payload + _mac(secret, purpose, payload)).decode()


def read_token(signing_keys: Sequence[bytes], purpose: Purpose, token: str) -> Pass:
    """What the token says, if one of the signing keys (newest first) has signed it. Raises PassError. Whether it is
    still good is the caller's to see."""
    if not _TOKEN.fullmatch(token):
        raise PassError("This sign-in link is damaged; copy the whole of it.")
    try:
        octets = urlsafe_b64decode(token)
    except binascii.Error as error:
        raise PassError("This sign-in link is damaged; copy the whole of it.") from error
    payload, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
    if not any(hmac.compare_digest(mac, _mac(secret, purpose, payload)) for secret in signing_keys):
        raise PassError("This sign-in link was not made here, or its signing key is no longer known.")
    return Pass(UUID(bytes=payload[:16]), int.from_bytes(payload[16:24], "big"), payload[24:].hex())


async def make_link(connection: AsyncConnection, secret: bytes, api_key: str, base_url: str) -> str:
    """The address that signs a person in, once, within LINK_SECONDS. `secret` is the first of the API's `secret_keys`,
    `base_url` where the API is reached. Raises DataError for a key that is wrong or revoked."""
    key = await keys.find(connection, secret=api_key)
    if key is None:
        raise DataError("This API key is wrong or revoked: `vashsender key list` shows which exist.")
    token = make_token(secret, Purpose.LINK, key.id, await clock(connection) + LINK_SECONDS)
    return f"{base_url.rstrip('/')}{PATH}/{token}"


def _mac(secret: bytes, purpose: Purpose, payload: bytes) -> bytes:
    return hmac.digest(secret, purpose.value + payload, "sha256")[:_MAC_OCTETS]
