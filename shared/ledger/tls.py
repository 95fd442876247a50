"""TLS to PostgreSQL: libpq's options in the database URL, as asyncpg understands them."""

import ssl

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared.errors import ConfigurationError
from shared.tls import DISABLED, NO_DATABASE, VERIFYING, trusting

DRIVERS = ("postgresql+asyncpg", "sqlite+aiosqlite")


def database_tls(address: str) -> tuple[URL, ssl.SSLContext | bool | None]:
    """The address without libpq's TLS options, and what they mean to asyncpg.

    That is a context, or False for no TLS, or None if the options say nothing (then TLS is used if the server offers
    it, and proves nothing). Raises ConfigurationError for what is no address of a ledger, for a mode that may fall back
    to the clear, and for files that cannot be used."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # no URL at all; a port that is no number
        raise ConfigurationError(NO_DATABASE) from None
    if url.drivername not in DRIVERS:
        raise ConfigurationError(NO_DATABASE)
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
