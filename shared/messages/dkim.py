"""DKIM signatures (RFC 6376): rsa-sha256, relaxed/relaxed, one key per sending domain.

Headers that people and filters rely on are named once more than they occur, so that none can be added afterwards (RFC
6376, 8.15). List-* and Feedback-ID are only signed where they stand: a relay that adds one leaves the signature intact.
`l=` is not used. Signing takes most of a millisecond, nearly all of it RSA, during which other threads can run: call
`sign` in a thread.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from shared.dkim_keys import find_keys, load_key
from shared.messages.message import Pieces, Unsigned, joined

OVERSIGNED = frozenset({b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"mime-version"}) | {
    b"content-type",
    b"content-transfer-encoding",
}
SIGNED_HEADERS = (
    b"from",
    b"to",
    b"cc",
    b"subject",
    b"date",
    b"message-id",
    b"reply-to",
    b"list-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
    b"feedback-id",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
)

_FOLD = 72


class DkimSigner:
    """Signs for one domain. It may be shared between threads."""

    def __init__(self, domain: str, selector: str, key: RSAPrivateKey, clock: Callable[[], float] = time.time) -> None:
        self.domain = domain
        self.selector = selector
        self._key = key
        self._clock = clock
        self._padding = PKCS1v15()
        self._hash = SHA256()
        self._tags = f"v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain};\r\n s={selector}; t=".encode()

    @property
    def public_key(self) -> RSAPublicKey:
        return self._key.public_key()

    def sign(self, message: Unsigned) -> Pieces:
        """The whole message with a DKIM-Signature in front."""
        head, body, canonical_body = message
        digest = sha256()
        for piece in canonical_body:
            digest.update(piece)
        names, signed = _signed_headers(head)
        signature = b"".join(
            (
                self._tags,
                str(int(self._clock())).encode(),
                b"; h=",
                b":\r\n ".join(names),
                b";\r\n bh=",
                b64encode(digest.digest()),
                b";\r\n b=",
            )
        )
        signed.append(b"dkim-signature:" + _relaxed_value(signature))
        octets = self._key.sign(b"\r\n".join(signed), self._padding, self._hash)
        return joined((b"DKIM-Signature: ", signature, _folded(b64encode(octets)), b"\r\n", head, b"\r\n\r\n", *body))


def load_signers(directory: Path | None) -> Mapping[str, DkimSigner]:
    """The signers by domain, one for each that has a key in this folder. Raises ConfigurationError."""
    signers = {}
    for file in find_keys(directory) if directory else ():
        signers[file.domain] = DkimSigner(file.domain, file.selector, load_key(file))
    return signers


def _signed_headers(head: bytes) -> tuple[list[bytes], list[bytes]]:
    """The names for `h=`, and the canonical headers they stand for; of headers with one name, the last comes first
    (RFC 6376, 5.4.2)."""
    found: dict[bytes, list[bytes]] = {}
    for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, _, value = line.partition(b":")
        found.setdefault(name.lower(), []).append(value)
    names: list[bytes] = []
    signed: list[bytes] = []
    for name in SIGNED_HEADERS:
        values = found.get(name, ())
        names += [name] * (len(values) + (name in OVERSIGNED))
        signed += [name + b":" + _relaxed_value(value) for value in reversed(values)]
    return names, signed


def _relaxed_value(value: bytes) -> bytes:
    """RFC 6376, 3.4.2."""
    return b" ".join(value.split())


def _folded(text: bytes) -> bytes:
    return b"\r\n ".join(text[start : start + _FOLD] for start in range(0, len(text), _FOLD))
