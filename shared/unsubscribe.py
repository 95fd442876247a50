"""The token of an unsubscribe link: names one recipient of one campaign, and cannot be forged (RFC 8058, section 5).

Its payload is campaign id (16 octets) and recipient id (8): 56 characters. It does not expire, because the email does
not.
"""

from collections.abc import Sequence
from uuid import UUID

from shared import signing

PURPOSE = b"vashsender unsubscribe 1\0"
_PAYLOAD_OCTETS = 24


def make_token(secret: bytes, campaign_id: UUID, recipient_id: int) -> str:
    """The token of one recipient (0 <= recipient_id < 2**63)."""
    return signing.make_token(secret, PURPOSE, campaign_id.bytes + recipient_id.to_bytes(8, "big"))


def make_link(public_url: str, secret: bytes, campaign_id: UUID, recipient_id: int) -> str:
    """The unsubscribe link of one recipient."""
    return f"{public_url}/u/{make_token(secret, campaign_id, recipient_id)}"


def read_token(secrets: Sequence[bytes], token: str) -> tuple[UUID, int]:
    """Campaign id and recipient id, if one of the secrets (newest first) has signed them. Raises signing.TokenError."""
    payload = signing.read_token(secrets, PURPOSE, token, _PAYLOAD_OCTETS)
    return UUID(bytes=payload[:16]), int.from_bytes(payload[16:], "big")
