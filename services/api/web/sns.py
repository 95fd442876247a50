"""Messages of Amazon SNS: their signature (its documentation, "Verifying the signatures of Amazon SNS messages").

Certificates come only from where SNS keeps them, over https, without redirects.
"""

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

FETCH_SECONDS = 5.0
LARGEST_BYTES = 20_000
KEPT_KEYS = 20

_AT_SNS = re.compile(r"https://sns\.[a-z0-9-]{1,40}\.amazonaws\.com(?:\.cn)?/[!-~]{0,4000}")
"""Without user, port or characters that a URL must not have."""
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
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA1, SHA256

        names = _SIGNED.get(_text(message, "Type"))
        algorithm = {"1": SHA1, "2": SHA256}.get(_text(message, "SignatureVersion"))
        if names is None or algorithm is None:
            raise NotSignedError("it is no message of SNS that is known")
        present = [name for name in names if message.get(name) is not None]
        signed = "".join(f"{name}\n{_text(message, name)}\n" for name in present).encode()
        try:
            signature = base64.b64decode(_text(message, "Signature"), validate=True)
            key = await self._key(_text(message, "SigningCertURL") or _text(message, "SigningCertUrl"))
            key.verify(signature, signed, PKCS1v15(), algorithm())
        except (InvalidSignature, UnsupportedAlgorithm, binascii.Error, ValueError) as error:
            raise NotSignedError(f"its signature is wrong: {error or 'it does not fit'}") from None

    async def confirm(self, message: Mapping[str, Any]) -> None:
        """Confirms the subscription that a verified message asks for. Raises NotSignedError."""
        await self._fetch(at_sns(_text(message, "SubscribeURL")))

    async def _key(self, url: str) -> "RSAPublicKey":
        known = self._keys.get(url)
        if known is not None:
            return known
        address = at_sns(url)
        if not address.partition("?")[0].partition("#")[0].endswith(".pem"):
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
    if not _AT_SNS.fullmatch(url):
        raise NotSignedError("a URL in it does not lead to SNS")
    return url


def _text(message: Mapping[str, Any], name: str) -> str:
    """A field of a message; empty if it is missing. Raises NotSignedError if it is no text that can be signed."""
    value = message.get(name)
    if value is None:
        return ""
    try:
        value.encode()
    except (AttributeError, UnicodeError):  # no text, or half a pair of UTF-16
        raise NotSignedError(f"its {name} is no text") from None
    return str(value)


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
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise NotSignedError(f"SNS cannot be reached: {type(error).__name__}") from None
