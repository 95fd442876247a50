"""TLS to broker and database. Certificate and host name are verified always; nothing here can be told otherwise.

Whom to trust is said in the address itself (`cafile` for AMQP, `sslrootcert` for PostgreSQL), else by
`VASHSENDER_CA_FILE`, else it is the system's authorities.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

VERIFYING = ("require", "verify-ca", "verify-full")
"""libpq's modes that encrypt. libpq verifies less in the first two; here all three verify everything."""

DISABLED = "disable"


def broker_address(url: str, ca_file: Path | None) -> str:
    """The AMQP URL with the authority it is to trust. Raises ConfigurationError where it asks not to verify."""
    options = _options(url)
    if options.get("no_verify_ssl", "0") != "0":
        raise ConfigurationError(
            "VASHSENDER_AMQP_URL: no_verify_ssl is not possible. Name the authority that signed the broker's "
            "certificate: VASHSENDER_CA_FILE."
        )
    if ca_file is None or urlsplit(url).scheme != "amqps" or options.keys() & {"cafile", "capath", "cadata"}:
        return url
    return _with(url, {**options, "cafile": str(ca_file)})


def database_address(url: str, ca_file: Path | None) -> str:
    """The database URL with the authority it is to trust; with one, it is reached over TLS unless it says otherwise."""
    parts, options = urlsplit(url), _options(url)
    if ca_file is None or not parts.scheme.startswith("postgres") or not parts.hostname:
        return url
    if options.get("sslmode") == DISABLED:
        return url
    return _with(url, {"sslmode": "verify-full", "sslrootcert": str(ca_file), **options})


def database_tls(address: str) -> "tuple[URL, ssl.SSLContext | bool | None]":
    """The address without libpq's TLS options, and what they mean to asyncpg: a context, False for none, None where
    they say nothing (then TLS is used if the server offers it, and proves nothing).

    Raises ConfigurationError for a mode that would fall back to the clear, and for files that cannot be used."""
    from sqlalchemy import make_url  # settings are read by many who never open a database

    url = make_url(address)
    if url.get_backend_name() != "postgresql":
        return url, None
    options = {name: value for name, value in url.query.items() if isinstance(value, str)}
    mode = options.get("sslmode")
    bare = url.difference_update_query(["sslmode", "sslrootcert", "sslcert", "sslkey"])
    if mode is None and "sslrootcert" not in options:
        return bare, None
    if mode == DISABLED:
        return bare, False
    if mode is not None and mode not in VERIFYING:
        raise ConfigurationError(
            f"VASHSENDER_DATABASE_URL: sslmode={mode} may fall back to the clear; say verify-full or {DISABLED}."
        )
    context = trusting(options.get("sslrootcert"))
    if "sslcert" in options:
        try:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"{options['sslcert']}: the client certificate cannot be used: {error}") from None
    return bare, context


def trusting(ca_file: str | Path | None) -> ssl.SSLContext:
    """A client's context that trusts this authority alone; None, or libpq's word `system`: those of the system.

    Raises ConfigurationError where the file cannot be used."""
    try:
        return ssl.create_default_context(cafile=None if ca_file in (None, "system") else ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if type(error) is not ssl.SSLError else "it holds no certificate in PEM"
        raise ConfigurationError(f"{ca_file}: cannot be used as certificate authority: {why}") from None


def in_the_clear(url: str) -> bool:
    """Whether an address reaches another machine without TLS that is verified."""
    parts = urlsplit(url)
    if parts.scheme in ("amqps", "") or parts.scheme.startswith("sqlite") or _is_here(parts.hostname):
        return False
    return parts.scheme == "amqp" or _options(url).get("sslmode", "") not in VERIFYING


def _is_here(host: str | None) -> bool:
    return host is None or host in ("localhost", "::1") or host.startswith("127.")


def _options(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def _with(url: str, options: Mapping[str, str]) -> str:
    query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options.items())
    return urlsplit(url)._replace(query=query).geturl()
