"""Messages of Amazon SNS: their signature (its documentation, "Verifying the signatures of Amazon SNS messages").

Certificates come only from where SNS keeps them, over https, without redirects.
"""

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

FETCH_SECONDS = 5.0
LARGEST_BYTES = 20_000
KEPT_KEYS = 20

_HOST = re.compile(r"sns\.[a-z0-9-]{1,40}\.amazonaws\.com(?:\.cn)?")
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
Fetch = Callable[[str], Awaitable[bytes]]


class NotSignedError(Exception):
    """SNS has not signed the message, or it cannot be verified."""


class Sns:
    """Verifies messages; keeps the keys it has fetched."""

    def __init__(self, fetch: Fetch | None = None) -> None:
        self._fetch = fetch or fetched
        self._keys: OrderedDict[str, RSAPublicKey] = OrderedDict()

    async def verify(self, message: Mapping[str, Any]) -> None:
        """Raises NotSignedError."""
        # Megabytes that few installations need.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA1, SHA256

        names = _SIGNED.get(str(message.get("Type")))
        algorithm = {"1": SHA1, "2": SHA256}.get(str(message.get("SignatureVersion")))
        if names is None or algorithm is None:
            raise NotSignedError("it is no message of SNS that is known")
        signed = "".join(f"{name}\n{message[name]}\n" for name in names if message.get(name) is not None).encode()
        try:
            signature = base64.b64decode(str(message.get("Signature")), validate=True)
            key = await self._key(str(message.get("SigningCertURL") or message.get("SigningCertUrl")))
            key.verify(signature, signed, PKCS1v15(), algorithm())
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise NotSignedError(f"its signature is wrong: {error or 'it does not fit'}") from None

    async def confirm(self, message: Mapping[str, Any]) -> None:
        """Confirms the subscription that a verified message asks for. Raises NotSignedError."""
        await self._fetch(at_sns(str(message.get("SubscribeURL"))))

    async def _key(self, url: str) -> "RSAPublicKey":
        known = self._keys.get(url)
        if known is not None:
            return known
        address = at_sns(url)
        if not urlsplit(address).path.endswith(".pem"):
            raise NotSignedError("SigningCertURL names no certificate")
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        key = x509.load_pem_x509_certificate(await self._fetch(address)).public_key()
        if not isinstance(key, RSAPublicKey):
            raise NotSignedError("its certificate has no RSA key")
        self._keys[url] = key
        if len(self._keys) > KEPT_KEYS:
            self._keys.popitem(last=False)
        return key


def at_sns(url: str) -> str:
    """The URL, if it leads to SNS over https. Raises NotSignedError."""
    try:
        parts = urlsplit(url)
        plain = parts.port is None and parts.username is None and parts.password is None
    except ValueError:
        plain = False
    if not plain or parts.scheme != "https" or not _HOST.fullmatch(parts.netloc):
        raise NotSignedError("a URL in it does not lead to SNS")
    return url


async def fetched(url: str) -> bytes:
    """What an https address answers. Raises NotSignedError."""
    import httpx  # megabytes that few installations need

    try:
        async with (
            httpx.AsyncClient(timeout=FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", url) as answer,
        ):
            said = b""
            async for block in answer.aiter_bytes():
                said += block
                if len(said) > LARGEST_BYTES:
                    raise NotSignedError("SNS answered more than a certificate")
            if answer.status_code != 200:
                raise NotSignedError(f"SNS answered {answer.status_code}")
            return said
    except (httpx.HTTPError, OSError) as error:
        raise NotSignedError(f"SNS cannot be reached: {type(error).__name__}") from None
