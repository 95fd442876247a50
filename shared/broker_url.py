"""The broker's URL, which may name several hosts: `amqp://user:password@mq1,mq2:5673/vhost`."""

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

from shared.errors import ConfigurationError

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
HOSTS = "hosts"
"""The option of a URL that lists all hosts, because URL libraries know one host per URL."""


def with_one_host(url: str) -> str:
    """The URL with its first host. All hosts, if there are several, are in the option `hosts`.

    Raises ConfigurationError if a host is missing."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    listed = hosts.split(",")
    if len(listed) == 1:
        return url
    if not all(_parse(host, 0)[0] for host in listed):
        raise ConfigurationError(
            "VASHSENDER_AMQP_URL: a host is missing beside a comma: write amqp://...@mq1,mq2,mq3/..."
        )
    query = urlencode([*parse_qsl(parts.query), (HOSTS, hosts)])
    return parts._replace(netloc=f"{account}{at}{listed[0]}", query=query).geturl()


def hosts_of(url: str) -> Sequence[tuple[str, int]]:
    """The hosts of a URL, each with its port."""
    parts = urlsplit(with_one_host(url))
    port = DEFAULT_PORTS.get(parts.scheme, 0)
    listed = dict(parse_qsl(parts.query)).get(HOSTS) or parts.netloc.rpartition("@")[2]
    return [_parse(host, port) for host in listed.split(",")]


def _parse(host: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host.strip()}")
    return parts.hostname or "", parts.port or default_port
