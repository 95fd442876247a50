"""The public key that a domain publishes for a selector (RFC 6376, 3.6.1), compared with ours."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.deliverability.dns import Dns

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


async def wrong_with_record(dns: Dns, name: str, ours: "RSAPublicKey") -> str:
    """What keeps receivers from verifying our signatures by the record at `name`; empty if nothing does. Raises
    DnsError."""
    records = await dns.txt(name)
    if not records:
        return f"there is no TXT record at {name}"
    if len(records) > 1:
        return f"there are {len(records)} TXT records at {name}, so receivers may take any"
    return f"{name}: {wrong}" if (wrong := _wrong(tags_of(records[0]), ours)) else ""


def tags_of(text: str) -> Mapping[str, str]:
    """Of a record or a signature (RFC 6376, 3.2). Of a tag that stands there twice, the first."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            tags.setdefault(name.strip(), value.strip())
    return tags


def refused_by(tags: Mapping[str, str]) -> str:
    """Why a record with these tags verifies no email that is signed with SHA-256; empty if it does."""
    if tags.get("v", "DKIM1") != "DKIM1":
        return f"v={tags['v'][:40]} is not DKIM1"
    if "sha256" not in _list(tags.get("h", "sha256")):
        return f"h={tags['h'][:40]} does not allow sha256"
    if not {"*", "email"} & _list(tags.get("s", "*")):
        return f"s={tags['s'][:40]} does not allow email"
    return ""


def _list(text: str) -> set[str]:
    return {one.strip() for one in text.split(":")}


def _wrong(tags: Mapping[str, str], ours: "RSAPublicKey") -> str:
    if why := refused_by(tags):
        return why
    if tags.get("k", "rsa") != "rsa":
        return f"k={tags['k'][:40]}, but our key is rsa"
    if "p" not in tags:
        return "it has no key (p=)"
    if not tags["p"]:
        return "the key is revoked (p= is empty)"
    if not _is_key(tags["p"], ours):
        return "another key is published, so no receiver can verify our signatures"
    if "y" in tags.get("t", "").split(":"):
        return "t=y says that the domain only tests DKIM: remove it"
    return ""


def _is_key(text: str, ours: "RSAPublicKey") -> bool:
    """A published key is SubjectPublicKeyInfo, or RSAPublicKey (RFC 8301 and 6376 differ)."""
    # Megabytes that only this check needs.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    try:
        published = base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except (binascii.Error, ValueError):
        return False
    if published == ours.public_bytes(Encoding.DER, PublicFormat.PKCS1):
        return True
    try:
        key = load_der_public_key(published)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, RSAPublicKey) and key.public_numbers() == ours.public_numbers()
