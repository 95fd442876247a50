"""The files of an installation's accounts: addresses per service and server, and files that create the accounts."""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from cli.access_rights import MONITOR, SERVICES, VHOST, account, definitions
from shared.errors import ConfigurationError
from shared.ledger import rights
from shared.ledger.rights import HOUSEKEEPING
from shared.reception import ADMIN
from shared.secret_files import private_folder, write_private
from shared.settings import LEAST_KEY_CHARACTERS
from shared.signing import Use, derived_key

MIGRATE = "migrate"
SECRET_KEY = "secret_key"
RENEWABLE = (*SERVICES, ADMIN, MONITOR, MIGRATE, HOUSEKEEPING, SECRET_KEY)
UNSUBSCRIBE_KEY = "unsubscribe_key"
DATABASE = "vashsender"
DEFINITIONS = "rabbitmq_definitions.json"
ROLES_SQL = "postgresql_roles.sql"

TEMPLATE = Path(__file__).with_name("access_roles.sql")
SCRAM_ITERATIONS = 4096
# A container mounts only the file, and reads it as another user. On the host the folder keeps others out.
FILE_MODE = 0o644

_SERVER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Servers:
    """Broker and database, each as HOST or HOST:PORT, with or without TLS."""

    broker: str = "localhost"
    database: str = "localhost"
    tls: bool = False

    def broker_url(self, role: str, password: str) -> str:
        """An AMQP URL; for `monitor` the URL of the management API."""
        if role == MONITOR:
            scheme, port = ("https", 15671) if self.tls else ("http", 15672)
            return f"{scheme}://{account(role)}:{password}@{_host(self.broker)}:{port}/{VHOST}"
        scheme, port = ("amqps", 5671) if self.tls else ("amqp", 5672)
        return f"{scheme}://{account(role)}:{password}@{_with_port(self.broker, port)}/{VHOST}"

    def database_url(self, role: str, password: str) -> str:
        query = "?sslmode=verify-full" if self.tls else ""
        return f"postgresql://{_database_role(role)}:{password}@{_with_port(self.database, 5432)}/{DATABASE}{query}"


def write(folder: Path, servers: Servers, renew: Collection[str] = ()) -> Sequence[Path]:
    """Writes missing files and those in `renew`, and returns the files written. Existing files keep their passwords, so
    the two files for the servers always match the addresses.

    Raises ConfigurationError if the folder cannot be used, or cannot be closed to other users."""
    try:
        private_folder(folder)
        return _write(folder, servers, renew)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename or folder}: {error.strerror}") from error


def _write(folder: Path, servers: Servers, renew: Collection[str]) -> Sequence[Path]:
    broker = {role: folder / f"{role}_amqp_url" for role in (*SERVICES, ADMIN)}
    broker[MONITOR] = folder / f"{MONITOR}_management_url"
    database = {role: folder / f"{role}_database_url" for role in (*SERVICES, MIGRATE, HOUSEKEEPING)}
    written: list[Path] = []
    for addresses, made in ((broker, servers.broker_url), (database, servers.database_url)):
        for role, path in addresses.items():
            written += _missing(path, made(role, _secret()))
            if role in renew and path not in written:
                written += _replaced(path, path.read_text().replace(_password(path), _secret()))
    definitions_file, roles_file = folder / DEFINITIONS, folder / ROLES_SQL
    if _is_older(definitions_file, broker.values()):
        passwords = {role: _password(path) for role, path in broker.items()}
        written += _replaced(definitions_file, json.dumps(definitions(passwords), indent=2) + "\n")
    if _is_older(roles_file, database.values()):
        written += _replaced(roles_file, _roles_sql({role: _password(path) for role, path in database.items()}))
    for name in ("postgresql_password", "grafana_password", "erlang_cookie"):
        written += _missing(folder / name, _secret())
    key = folder / SECRET_KEY
    written += _missing(key, _secret())
    if SECRET_KEY in renew and key not in written:
        # The new key signs; links signed with the old keys stay valid.
        written += _replaced(key, f"{_secret()},{key.read_text()}")
    derived, unsubscribe_key = folder / UNSUBSCRIBE_KEY, unsubscribe_key_of(key.read_text())
    if not derived.exists() or derived.read_text().strip() != unsubscribe_key:
        written += _replaced(derived, unsubscribe_key)
    return written


def unsubscribe_key_of(secret_keys: str) -> str:
    """The keys of tokens and unsubscribe links, one for each of these secrets: the first signs. Raises
    ConfigurationError if it is too short."""
    newest = secret_keys.partition(",")[0].strip()
    if len(newest) < LEAST_KEY_CHARACTERS:
        raise ConfigurationError(f"the secret key is shorter than {LEAST_KEY_CHARACTERS} characters: make a longer one")
    secrets_ = (secret.strip() for secret in secret_keys.split(","))
    return ",".join(derived_key(secret.encode(), Use.UNSUBSCRIBE).decode() for secret in secrets_ if secret)


def _missing(path: Path, text: str) -> Sequence[Path]:
    return [] if path.exists() else _replaced(path, text)


def _replaced(path: Path, text: str) -> Sequence[Path]:
    write_private(path, text, FILE_MODE)
    return [path]


def _secret() -> str:
    return secrets.token_urlsafe(32)


def _is_older(path: Path, others: Iterable[Path]) -> bool:
    return not path.exists() or any(other.stat().st_mtime_ns > path.stat().st_mtime_ns for other in others)


def _password(path: Path) -> str:
    password = urlsplit(path.read_text().strip()).password
    if not password:
        raise ConfigurationError(f"{path} has no address with a password: remove or correct it")
    return password


def _database_role(role: str) -> str:
    return rights.OWNER if role == MIGRATE else rights.role_of(role)


def _roles_sql(passwords: Mapping[str, str]) -> str:
    roles = {_database_role(role): password for role, password in passwords.items()}
    return Template(TEMPLATE.read_text()).substitute(
        names=", ".join(f"'{name}'" for name in roles),
        passwords="\n".join(f"ALTER ROLE {name} LOGIN PASSWORD '{_scram(secret)}';" for name, secret in roles.items()),
        database=DATABASE,
        owner=rights.OWNER,
        services=", ".join(rights.role_of(role) for role in (*SERVICES, HOUSEKEEPING)),
    )


def _scram(password: str) -> str:
    """PostgreSQL's verifier of a password (RFC 5802, section 3, with SHA-256 of RFC 7677)."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, client64, server64 = (base64.b64encode(part).decode() for part in (salt, client, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt64}${client64}:{server64}"


def _with_port(server: str, port: int) -> str:
    return f"{_host(server)}:{urlsplit(f'//{server}').port or port}"


def _host(server: str) -> str:
    """The host without its port. An IPv6 address keeps its brackets."""
    found = _SERVER.fullmatch(server)
    if found is None:
        raise ConfigurationError(f"{server!r} is not a host: use HOST or HOST:PORT")
    return found.group(1)
