"""Signed tokens: what they say cannot be changed without the key that signed it.

Each use has its own key, derived from the installation's secret, so a process that has one key can sign nothing else.
The secret is rotated by putting a new one in front.

A token is base64url of its payload and an HMAC-SHA256 (RFC 2104) cut to 144 bits. The HMAC also covers the token's
purpose, so that a token made for one purpose is worthless for any other.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from enum import Enum

from shared.errors import DataError

_MAC_OCTETS = 18


class Use(Enum):
    """What a key is for. Values never change: they are part of the keys."""

    #: The page's sessions.
    SESSION = "session"
    #: Links that sign a person in to the page, once.
    SIGN_IN = "sign-in link"
    #: The page's forms.
    FORM = "form"
    #: The address at which Amazon SES tells a project what came back.
    SES = "ses hook"
    #: The TXT record by which a project proves a domain.
    DOMAIN = "domain proof"
    #: Unsubscribe links. The only key that senders have; the next is derived from it.
    UNSUBSCRIBE = "unsubscribe link"
    #: Opens the secret of the hashes of erased addresses.
    HASHED = "hashed address"


class TokenError(DataError):
    """The token is damaged, or no secret of ours has signed it."""


def derived_key(secret: bytes, use: Use) -> bytes:
    """The key of one use: 32 octets of HKDF-SHA256 (RFC 5869, no salt) as 43 characters of base64url, so that it can
    stand in a file or a list of keys."""
    extracted = hmac.digest(b"\0" * 32, secret, "sha256")
    derived = hmac.digest(extracted, f"vashsender key 1: {use.value}".encode() + b"\x01", "sha256")
    return urlsafe_b64encode(derived).rstrip(b"=")


def make_token(secret: bytes, purpose: bytes, payload: bytes) -> str:
    """A token of 4 characters for every 3 octets of payload, and 24 more; the payload's length must divide by 3."""
    return urlsafe_b64encode(payload + mac(secret, purpose, payload)[:_MAC_OCTETS]).decode()


def read_token(secrets: Sequence[bytes], purpose: bytes, token: str, payload_octets: int) -> bytes:
    """The payload, if it has this length and one of the secrets (newest first) has signed it. Raises TokenError."""
    try:
        octets = urlsafe_b64decode(token.encode("ascii"))
    except (UnicodeEncodeError, binascii.Error):
        octets = b""
    # Characters that are no base64url are skipped by the decoder.
    if len(octets) != payload_octets + _MAC_OCTETS or urlsafe_b64encode(octets).decode() != token:
        raise TokenError("This link is damaged; copy the whole of it.")
    payload, given = octets[:payload_octets], octets[payload_octets:]
    if not any(hmac.compare_digest(given, mac(secret, purpose, payload)[:_MAC_OCTETS]) for secret in secrets):
        raise TokenError("This link was not made here, or its signing key is no longer known.")
    return payload


def mac(secret: bytes, purpose: bytes, payload: bytes) -> bytes:
    """32 octets. `purpose` ends with a zero octet, so that no purpose is the beginning of another."""
    return hmac.digest(secret, purpose + payload, "sha256")


def are_equal(one: str, other: str) -> bool:
    """Compares in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())
