"""TLS to broker, database and relays: which authorities are trusted, and which addresses are in the clear.

Broker and database are always verified, certificate and host name; no option turns that off. The authority comes from
the address itself (`cafile` for AMQP, `sslrootcert` for PostgreSQL), else from `VASHSENDER_CA_FILE`, else from the
system.
"""

import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from shared.broker_url import hosts_of
from shared.errors import ConfigurationError

BROKER_FORM = "amqp://USER:PASSWORD@HOST:5672/VHOST"
ENCODED = "In user name and password, @ is %40, : is %3A, / is %2F and [ is %5B."
NO_DATABASE = (
    "VASHSENDER_DATABASE_URL is no address of PostgreSQL or SQLite: write"
    f" postgresql://USER:PASSWORD@HOST:5432/DATABASE, or sqlite:////FILE. {ENCODED}"
)

VERIFYING = ("require", "verify-ca", "verify-full")
"""libpq's modes that encrypt. libpq verifies less in the first two; here all three verify everything."""

DISABLED = "disable"


def broker_address(url: str, ca_file: Path | None, setting: str = "VASHSENDER_AMQP_URL") -> str:
    """The AMQP URL with the authority to trust; empty if it is. Raises ConfigurationError if it cannot be read, or asks
    not to verify."""
    if url and not _leads_to_hosts(url):
        raise ConfigurationError(f"{setting} is no address of a broker: write {BROKER_FORM}. {ENCODED}")
    options = dict(_options(url))
    if options.get("no_verify_ssl", "0") != "0":
        raise ConfigurationError(
            f"{setting}: no_verify_ssl is not possible. Name the authority that signed the broker's "
            "certificate: VASHSENDER_CA_FILE."
        )
    if ca_file is None or urlsplit(url).scheme != "amqps" or options.keys() & {"cafile", "capath", "cadata"}:
        return url
    return _with(url, [*_options(url), ("cafile", str(ca_file))])


def _leads_to_hosts(url: str) -> bool:
    try:
        return "://" in url and bool(hosts_of(url))
    except ValueError:  # a port that is no number, or a bracket that is not closed
        return False


def database_address(url: str, ca_file: Path | None) -> str:
    """The database URL with the authority to trust. With one, TLS is used unless the URL says otherwise. Raises
    ConfigurationError if it cannot be read."""
    try:
        options = dict(_options(url))
    except ValueError:  # a bracket that is not closed
        raise ConfigurationError(NO_DATABASE) from None
    if ca_file is None or not urlsplit(url).scheme.startswith("postgres") or not hosts(url):
        return url
    if options.get("sslmode") == DISABLED:
        return url
    added = [("sslmode", "verify-full"), ("sslrootcert", str(ca_file))]
    return _with(url, [*((name, value) for name, value in added if name not in options), *_options(url)])


def hosts(url: str) -> Sequence[str]:
    """The hosts of an address, which may name several: `amqp://mq1,mq2/v`, `postgresql:///db?host=h1:5432&host=h2:5432`."""
    parts = urlsplit(url)
    if parts.scheme.startswith("amqp"):
        return [host for host, _ in hosts_of(url)]
    if parts.hostname:
        return [parts.hostname]
    named = [value for name, value in _options(url) if name == "host" and not value.startswith("/")]
    return [urlsplit(f"//{value}").hostname or "" for value in named]


def trusting(ca_file: str | Path | None) -> ssl.SSLContext:
    """A client's context that trusts only this authority (PEM). None, or libpq's word `system`: the system's.

    Raises ConfigurationError if the file cannot be used."""
    try:
        return ssl.create_default_context(cafile=None if ca_file in (None, "system") else ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if type(error) is not ssl.SSLError else "it holds no certificate in PEM"
        raise ConfigurationError(f"{ca_file}: cannot be used as certificate authority: {why}") from None


def in_the_clear(url: str) -> bool:
    """Whether an address leads to another machine without verified TLS."""
    scheme = urlsplit(url).scheme
    if scheme in ("amqps", "") or scheme.startswith("sqlite") or all(map(_is_here, hosts(url))):
        return False
    return scheme == "amqp" or dict(_options(url)).get("sslmode", "") not in VERIFYING


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _options(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query)


def _with(url: str, options: Iterable[tuple[str, str]]) -> str:
    """The URL with these options. `host` may occur several times."""
    query = [f"{name}={quote(value, safe='/:')}" for name, value in options]
    return urlsplit(url)._replace(query="&".join(query)).geturl()
