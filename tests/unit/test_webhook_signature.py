"""Signatures are those of Standard Webhooks: its own library verifies them."""

import time
from base64 import b64encode

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhooks.signature import headers

BODY = b'{"type":"events","data":[{"reply":"\xd0\x9d\xd0\xb5\xd1\x82"}]}'
OLD, NEW, FOREIGN = (f"whsec_{b64encode(bytes([octet]) * 32).decode()}" for octet in (1, 2, 3))


def test_standardwebhooks_verifies_a_signature() -> None:
    made = dict(headers([NEW], "id-1-500", int(time.time()), BODY))
    assert Webhook(NEW).verify(BODY, made)["type"] == "events"
    for broken in ({"webhook-id": "id-1-501"}, {"webhook-timestamp": str(int(time.time()) - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(NEW).verify(BODY, {**made, **broken})
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY + b" ", made)


def test_both_secrets_verify_while_one_is_rotated() -> None:
    made = dict(headers([NEW, OLD], "id", int(time.time()), BODY))
    assert Webhook(OLD).verify(BODY, made) == Webhook(NEW).verify(BODY, made)
    with pytest.raises(WebhookVerificationError):
        Webhook(FOREIGN).verify(BODY, made)
