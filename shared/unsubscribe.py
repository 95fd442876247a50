"""The token of an unsubscribe link: names one recipient of one campaign, and cannot be forged (RFC 8058, section 5).

A token is base64url of campaign id (16 octets), recipient id (8) and an HMAC-SHA256 cut to 144 bits: 56 characters.
Its links live as long as the mail does, so there is no expiry; a secret is rotated by putting a new one in front.
"""

import binascii
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from uuid import UUID

from shared.errors import DataError

_PURPOSE = b"vashsender unsubscribe 1\0"  # a secret may sign other things too; nothing signed for them is a token
_MAC_OCTETS = 18
_TOKEN = re.compile(r"[A-Za-z0-9_-]{56}")


class TokenError(DataError):
    """The unsubscribe link is damaged or was not made here."""


def make_token(secret: bytes, campaign_id: UUID, recipient_id: int) -> str:
    """The token of one recipient (0 <= recipient_id < 2**63)."""
    payload = campaign_id.bytes + recipient_id.to_bytes(8, "big")
    return urlsafe_b64encode(payload + _mac(secret, payload)).decode()


def read_token(secrets: Sequence[bytes], token: str) -> tuple[UUID, int]:
    """Campaign id and recipient id, if one of the secrets (newest first) has signed them. Raises TokenError."""
    if not _TOKEN.fullmatch(token):
        raise TokenError("This unsubscribe link is damaged; copy the whole of it.")
    try:
        octets = urlsafe_b64decode(token)
    except binascii.Error as error:
        raise TokenError("This unsubscribe link is damaged; copy the whole of it.") from error
    payload, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
    if not any(hmac.compare_digest(mac, _mac(secret, payload)) for secret in secrets):
        raise TokenError("This unsubscribe link was not made here, or its key is no longer known.")
    return UUID(bytes=payload[:16]), int.from_bytes(payload[16:], "big")


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, _PURPOSE + payload, "sha256")[:_MAC_OCTETS]
