"""DKIM keys (RFC 6376): where they are, and how to create one.

A key is a file `<domain>.<selector>.pem` in the folder VASHSENDER_DKIM_DIR. If a domain has several keys, the one whose
selector sorts last signs. So a second key is created as `<domain>.<selector>.pem.new`, to be renamed once its DNS
record is published.
"""

import base64
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.addresses import parse_domain
from shared.errors import ConfigurationError, DataError
from shared.secret_files import create_private, private_folder

KEY_BITS = 2048  # RFC 8301, 3.2

_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TXT_STRING = 255  # octets of one character-string of a TXT record (RFC 1035, 3.3.14)


class KeyFile(NamedTuple):
    """A key that signs for a domain."""

    domain: str
    selector: str
    path: Path


class NewKey(NamedTuple):
    """A new key, and the TXT record to publish for it."""

    path: Path
    #: Name of the TXT record.
    record_name: str
    #: Text of the TXT record.
    record_text: str
    #: The same record as a line of a zone file.
    zone_line: str
    #: False if the domain already has a key: then rename the file to end in `.pem` once the record is visible.
    active: bool


def new_key(directory: Path, domain: str, selector: str | None = None) -> NewKey:
    """Creates an RSA-2048 key that only its owner can read. The default selector is `vs` and today's date.

    Raises AddressError for a wrong domain, DataError for a wrong selector or if that key exists."""
    domain = parse_domain(domain)
    selector = selector or f"vs{datetime.now(UTC):%Y%m%d}"
    if not _SELECTOR.fullmatch(selector):
        raise DataError(
            f"The selector {selector!r} must be lower-case letters, digits and hyphens, such as vs20260101."
        )
    private_folder(directory)
    active = not any(key.domain == domain for key in find_keys(directory))
    path = directory / f"{domain}.{selector}.pem"
    waiting = path.with_name(path.name + ".new")
    for taken in (path, waiting):
        if taken.exists():
            raise _taken(taken)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = path if active else waiting
    if not create_private(path, pem):
        raise _taken(path)
    name, text = f"{selector}._domainkey.{domain}", _record_text(key.public_key())
    strings = " ".join(f'"{text[start : start + _TXT_STRING]}"' for start in range(0, len(text), _TXT_STRING))
    return NewKey(path, name, text, f"{name}. IN TXT ( {strings} )", active)


def find_keys(directory: Path) -> list[KeyFile]:
    """All keys in a folder, sorted by domain and selector."""
    keys = []
    for path in sorted(directory.glob("*.pem")):
        domain, _, selector = path.name.removesuffix(".pem").rpartition(".")
        if domain and _SELECTOR.fullmatch(selector):
            keys.append(KeyFile(domain, selector, path))
    return sorted(keys)


def load_key(file: KeyFile) -> rsa.RSAPrivateKey:
    """Reads a key. Raises ConfigurationError if it is no RSA key of at least 1024 bits, or if everyone can read it."""
    try:
        key = serialization.load_pem_private_key(file.path.read_bytes(), password=None)
        mode = file.path.stat().st_mode
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{file.path}: not a readable DKIM key: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 1024:
        raise ConfigurationError(f"{file.path}: not an RSA key of 1024 bits or more; create one: vashsender dkim new")
    if mode & stat.S_IRWXO:
        raise ConfigurationError(f"{file.path}: everyone can read this key; chmod 600 it, or mount it with mode 0440.")
    return key


def _taken(path: Path) -> DataError:
    return DataError(f"{path} exists already; choose another selector.")


def _record_text(key: rsa.RSAPublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"
