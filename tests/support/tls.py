"""A broker and a database with TLS."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cli.local.broker import PrivateBroker
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from cli.local.postgres_user import give
from tests.support.run import TestRun
from tests.support.smtp.certificates import Certificate

POLL_SECONDS = 0.05
BUSY_SECONDS = 180.0
"""Timeout for starting a node on a busy machine."""


@contextmanager
def tls_broker(run: TestRun, name: str, certificate: Certificate, ca_file: Path) -> Iterator[tuple[PrivateBroker, int]]:
    """A new node with a TLS listener beside the plain one, and the port of the TLS listener."""
    broker, port = run.new_broker(name), free_port()
    folder = broker.data_dir / "conf" / "conf.d"
    folder.mkdir(parents=True)
    (folder / "tls.conf").write_text(
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {ca_file}\n"
        f"ssl_options.certfile = {certificate.certificate}\n"
        f"ssl_options.keyfile = {certificate.key}\n"
        "ssl_options.verify = verify_none\n"  # clients have no certificate
        "ssl_options.versions.1 = tlsv1.3\n"
        "ssl_options.versions.2 = tlsv1.2\n"
    )
    broker.start()
    try:
        broker.wait_ready(BUSY_SECONDS)
        yield broker, port
    finally:
        broker.stop()


def enable_tls(postgres: PrivatePostgres, certificate: Certificate) -> None:
    """Makes a running cluster accept TLS with `certificate`."""
    for source, name in ((certificate.certificate, "server.crt"), (certificate.key, "server.key")):
        file = postgres.cluster / name
        file.write_bytes(source.read_bytes())
        file.chmod(0o600)
        give(file)
    postgres.query("ALTER SYSTEM SET ssl = on")
    postgres.query("SELECT pg_reload_conf()")
    deadline = time.monotonic() + BUSY_SECONDS
    while postgres.query("SHOW ssl") != "on":  # the reload reaches new connections a little later
        assert time.monotonic() < deadline, "the cluster does not offer TLS"
        time.sleep(POLL_SECONDS)


def with_host(url: str, host: str, port: int | None = None, scheme: str = "") -> str:
    """The URL with another host, port or scheme."""
    parts = urlsplit(url)
    where = f"{parts.username}:{parts.password}@{host}:{port or parts.port}"
    return parts._replace(scheme=scheme or parts.scheme, netloc=where).geturl()
