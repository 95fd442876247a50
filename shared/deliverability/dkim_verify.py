"""Verifies one DKIM signature (RFC 6376; Ed25519 as in RFC 8463)."""

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from shared.deliverability.dkim_record import refused_by, tags_of

LEAST_BITS = 1024  # RFC 8301, 3.2
SIGNATURE = b"dkim-signature"

_REQUIRED = ("a", "b", "bh", "d", "h", "s", "v")
_SPACES = re.compile(rb"[ \t]+")
_HEADER = re.compile(rb"([\x21-\x39\x3b-\x7e]+):")
_LINE_END = re.compile(rb"\r?\n")
_SIGNED_DATA = re.compile(rb"(^|;)([ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_FOREVER = 2**40


class SignatureError(ValueError):
    """The signature proves nothing. The text says why."""


class Field(NamedTuple):
    """One header, with its name as it is written, and its value as it is folded."""

    name: bytes
    value: bytes


class Message(NamedTuple):
    headers: Sequence[Field]
    body: bytes
    #: A line among the headers that is none (RFC 5322, 2.2), such as a lone CR; empty if there is none.
    no_header: bytes = b""

    @property
    def signatures(self) -> Sequence[Field]:
        """The newest first."""
        return [field for field in self.headers if field.name.lower() == SIGNATURE]


def parse(octets: bytes) -> Message:
    """Takes any bytes. Line ends become CRLF."""
    octets = _LINE_END.sub(b"\r\n", octets)
    head, _, body = octets.partition(b"\r\n\r\n")
    headers, no_header = [], b""
    for line in re.split(rb"\r\n(?![ \t])", head):
        if found := _HEADER.match(line):
            headers.append(Field(found[1], line[found.end() :]))
        elif not line.startswith(b"From "):  # the first line of a mailbox file
            no_header = no_header or line
    return Message(headers, body, no_header)


def signature_tags(signature: Field) -> Mapping[str, str]:
    return tags_of(signature.value.decode("utf-8", "replace"))


def verify(message: Message, signature: Field, record: str) -> None:
    """`record` is the TXT record of the signature's selector. Raises SignatureError."""
    if message.no_header:
        raise SignatureError(f"{message.no_header[:40]!r} is no header")
    tags = signature_tags(signature)
    _check_tags(tags)
    of_headers, _, of_body = tags.get("c", "simple/simple").partition("/")
    canonical = {"simple": _simple, "relaxed": _relaxed}
    if of_headers not in canonical or (of_body or "simple") not in canonical:
        raise SignatureError(f"c={tags['c'][:40]} is not known")
    body = canonical[of_body or "simple"](message.body)
    if "l" in tags:
        body = body[: _number(tags["l"], "l")]
    if sha256(body).digest() != _decoded(tags["bh"], "bh"):
        raise SignatureError("the body is not as it was signed: something changed it on its way")
    relaxed = of_headers == "relaxed"
    signed = [_header(field, relaxed=relaxed) + b"\r\n" for field in _chosen(message, tags["h"])]
    unsigned = signature._replace(value=_SIGNED_DATA.sub(rb"\1\2", signature.value))
    signed.append(_header(unsigned, relaxed=relaxed))
    _check(tags["a"], b"".join(signed), _decoded(tags["b"], "b"), tags_of(record))


def _check_tags(tags: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED if not tags.get(name)]
    if missing:
        raise SignatureError(f"{missing[0]}= is missing")
    if tags["v"] != "1":
        raise SignatureError(f"v={tags['v'][:40]} is not 1")
    if "from" not in [name.strip().lower() for name in tags["h"].split(":")]:
        raise SignatureError("From is not signed")
    identity = tags.get("i", f"@{tags['d']}").rpartition("@")[2].lower()
    if f".{identity}" != f".{tags['d'].lower()}" and not identity.endswith(f".{tags['d'].lower()}"):
        raise SignatureError("i= is not within d=")
    if _number(tags.get("x", str(_FOREVER)), "x") < time.time():
        raise SignatureError("it has expired")


def _chosen(message: Message, names: str) -> list[Field]:
    """The signed headers. Of several with one name the last comes first (RFC 6376, 5.4.2); a missing one is empty."""
    left: dict[bytes, list[Field]] = {}
    for field in message.headers:
        left.setdefault(field.name.lower(), []).append(field)
    chosen = []
    for name in names.split(":"):
        fields = left.get(name.strip().lower().encode())
        if fields:
            chosen.append(fields.pop())
    return chosen


def _header(field: Field, *, relaxed: bool) -> bytes:
    if not relaxed:
        return field.name + b":" + field.value
    unfolded = field.value.replace(b"\r\n", b"")
    return field.name.lower() + b":" + _SPACES.sub(b" ", unfolded).strip()


def _simple(body: bytes) -> bytes:
    return re.sub(rb"(\r\n)*\Z", b"", body) + b"\r\n"


def _relaxed(body: bytes) -> bytes:
    lines = [_SPACES.sub(b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def _check(algorithm: str, signed: bytes, signature: bytes, record: Mapping[str, str]) -> None:
    kind, _, digest = algorithm.partition("-")
    if (kind, digest) not in (("rsa", "sha256"), ("ed25519", "sha256")):
        raise SignatureError(f"a={algorithm[:40]} is not accepted any more")
    if why := refused_by(record):
        raise SignatureError(f"the record: {why}")
    if record.get("k", "rsa") != kind:
        raise SignatureError(f"the record has a key for {record['k'][:40]}")
    if not record.get("p"):
        raise SignatureError("the record has no key, or the key is revoked")
    published = _decoded(record["p"], "p")
    try:
        if kind == "ed25519":
            Ed25519PublicKey.from_public_bytes(published).verify(signature, sha256(signed).digest())
            return
        key = load_der_public_key(published)
        if not isinstance(key, RSAPublicKey) or key.key_size < LEAST_BITS:
            raise SignatureError(f"the record has no RSA key of {LEAST_BITS} bits or more")
        key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        raise SignatureError("it does not fit: something changed a header on its way, or the key is another") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError("the record has no key that can be read") from None


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError(f"{name}= is no base64") from None


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 76):
        raise SignatureError(f"{name}= is no number")
    return int(text)
