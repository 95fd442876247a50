"""URLs of broker and database: which authorities they trust, and which options are refused."""

import ssl
from pathlib import Path
from urllib.parse import unquote

import pytest

from shared.errors import ConfigurationError
from shared.ledger.tls import database_tls
from shared.settings import CommonSettings, load
from shared.tls import broker_address, database_address, in_the_clear
from tests.support.smtp.certificates import Authority

CA = Path("/etc/my authority.pem")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("amqps://me:a%2Fb@mq/v", "amqps://me:a%2Fb@mq/v?cafile=/etc/my%20authority.pem"),
        ("amqps://mq/v?heartbeat=5", "amqps://mq/v?heartbeat=5&cafile=/etc/my%20authority.pem"),
        ("amqps://mq/v?cafile=/its/own.pem", "amqps://mq/v?cafile=/its/own.pem"),
        ("amqp://mq/v", "amqp://mq/v"),
    ],
)
def test_the_broker_is_verified_against_the_right_authority(given: str, expected: str) -> None:
    assert broker_address(given, CA) == expected
    assert broker_address(given, None) == given


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_the_broker_is_always_verified(value: str) -> None:
    with pytest.raises(ConfigurationError, match="no_verify_ssl"):
        broker_address(f"amqps://mq/v?no_verify_ssl={value}", None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "postgresql+asyncpg://db/x",
            "postgresql+asyncpg://db/x?sslmode=verify-full&sslrootcert=/etc/my%20authority.pem",
        ),
        ("postgresql+asyncpg://db/x?sslmode=disable", "postgresql+asyncpg://db/x?sslmode=disable"),
        (
            "postgresql+asyncpg://db/x?sslrootcert=system",
            "postgresql+asyncpg://db/x?sslmode=verify-full&sslrootcert=system",
        ),
        (
            "postgresql+asyncpg://me@/x?host=h1:5432&host=h2:5432",
            "postgresql+asyncpg://me@/x?sslmode=verify-full&sslrootcert=/etc/my%20authority.pem"
            "&host=h1:5432&host=h2:5432",
        ),
        ("postgresql+asyncpg:///x?host=/run/postgresql", "postgresql+asyncpg:///x?host=/run/postgresql"),
        ("sqlite+aiosqlite:////a/b.db", "sqlite+aiosqlite:////a/b.db"),
    ],
)
def test_the_database_is_verified_against_the_right_authority(given: str, expected: str) -> None:
    assert database_address(given, CA) == expected
    assert database_address(given, None) == given


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_every_encrypted_mode_verifies_certificate_and_host(mode: str, tmp_path: Path) -> None:
    ca_file = Authority(tmp_path).ca_file
    url, context = database_tls(f"postgresql+asyncpg://db/x?sslmode={mode}&sslrootcert={ca_file}&timeout=3")
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1, "the named authority alone"
    assert url.query == {"timeout": "3"}


def test_each_mode_is_interpreted_correctly() -> None:
    assert database_tls("postgresql+asyncpg://db/x")[1] is None
    assert database_tls("postgresql+asyncpg://db/x?sslmode=disable")[1] is False
    assert database_tls("sqlite+aiosqlite:////a/b.db")[1] is None
    for mode in ("prefer", "allow", "on"):
        with pytest.raises(ConfigurationError, match=f"sslmode={mode}"):
            database_tls(f"postgresql+asyncpg://db/x?sslmode={mode}")


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    for path in (text, tmp_path / "nothing"):
        with pytest.raises(ConfigurationError, match=f"VASHSENDER_CA_FILE: {path}"):
            load(CommonSettings, ca_file=path)
        with pytest.raises(ConfigurationError, match=str(path)):
            database_tls(f"postgresql+asyncpg://db/x?sslmode=verify-full&sslrootcert={path}")
    with pytest.raises(ConfigurationError, match="client certificate"):
        database_tls(f"postgresql+asyncpg://db/x?sslmode=verify-full&sslcert={text}")


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("amqp://mq/v", True),
        ("amqps://mq/v", False),
        ("amqp://127.0.0.1/v", False),
        ("", False),
        ("postgresql+asyncpg://db/x", True),
        ("postgresql+asyncpg://db/x?sslmode=disable", True),
        ("postgresql+asyncpg://db/x?sslmode=require", False),
        ("postgresql+asyncpg://localhost/x", False),
        ("postgresql+asyncpg:///x?host=localhost:1&host=db:2", True),
        ("postgresql+asyncpg:///x?host=localhost:1&host=[::1]:2", False),
        ("postgresql+asyncpg:///x?host=h1&host=h2&sslmode=verify-full", False),
        ("sqlite+aiosqlite:////a/b.db", False),
    ],
)
def test_unencrypted_connections_are_found(url: str, clear: bool) -> None:
    assert in_the_clear(url) is clear


@pytest.mark.parametrize(
    "given",
    [
        "first",
        "://",
        "sqlite:x",
        "mysql://u:secret@h/x",
        "postgresql+psycopg2://u:secret@h/x",
        "postgresql://u:secret@h:p/x",
    ],
)
def test_what_is_no_address_of_a_database_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_DATABASE_URL is no address") as refused:
        database_tls(load(CommonSettings, database_url=given).ledger_url)
    assert "write postgresql://USER:PASSWORD@HOST:5432/DATABASE" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_bracket_that_is_not_closed_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_DATABASE_URL is no address"):
        database_address("postgresql+asyncpg://[::1/x", None)


@pytest.mark.parametrize("password", ["a/b", "a#b", "a?b", "a:b", "a%40b"])
def test_passwords_of_a_database_that_are_not_encoded_are_understood_as_before(password: str) -> None:
    url, _ = database_tls(load(CommonSettings, database_url=f"postgresql://u:{password}@db:5432/x").ledger_url)
    assert (url.password, url.host, url.port, url.database) == (unquote(password), "db", 5432, "x")


@pytest.mark.parametrize(
    "given", ["first", "amqp:mq", "amqp://u:secret@mq:port/", "amqp://u:sec/ret@mq/", "amqp://[::1"]
)
def test_what_is_no_address_of_a_broker_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_AMQP_URL is no address") as refused:
        broker_address(given, None)
    assert "write amqp://USER:PASSWORD@HOST:5672/VHOST" in str(refused.value)
    assert "sec" not in str(refused.value)


@pytest.mark.parametrize(
    "given", ["", "amqp://mq1:5672,mq2:5673/v", "amqps://[::1]/", "amqp:///", "amqp://mq", "pyamqp://u:p@mq:5672//"]
)
def test_addresses_of_brokers_are_left_as_they_are(given: str) -> None:
    """Celery's scheme worked in release 0.1.0."""
    assert broker_address(given, None) == given
