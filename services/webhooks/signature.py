"""Signatures as Standard Webhooks makes them: github.com/standard-webhooks/standard-webhooks (symmetric, v1)."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"


def headers(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers. While a secret is rotated there are two signatures, and either will do."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    made = (hmac.digest(b64decode(secret.removeprefix(PREFIX)), signed, "sha256") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(one).decode()}" for one in made),
    }
