"""The hosts in the broker's URL."""

from pathlib import Path

import pytest
from yarl import URL

from shared.broker_url import hosts_of, with_one_host
from shared.errors import ConfigurationError
from shared.tls import broker_address, in_the_clear


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("amqp://mq/v", [("mq", 5672)]),
        ("amqps://me:p@mq:5673/v", [("mq", 5673)]),
        ("amqps://me:p%2Cq@mq1,mq2:5673,mq3/v?heartbeat=5", [("mq1", 5671), ("mq2", 5673), ("mq3", 5671)]),
        ("amqp://me:p@[::1]:1,[fd00::2]/v", [("::1", 1), ("fd00::2", 5672)]),
    ],
)
def test_a_url_names_one_or_several_hosts(url: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(url) == hosts
    one = with_one_host(url)
    assert hosts_of(one) == hosts
    assert URL(one).host == hosts[0][0]
    assert with_one_host(one) == one


@pytest.mark.parametrize("url", ["amqp://me:p@mq1,/v", "amqp://me:p@,mq2/v", "amqp://me:p@mq1,:5672/v"])
def test_a_missing_host_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_AMQP_URL: a host is missing beside a comma"):
        with_one_host(url)


def test_the_authority_is_kept_beside_several_hosts() -> None:
    url = broker_address("amqps://me:p@mq1,mq2/v", Path("/ca.pem"))
    assert hosts_of(url) == [("mq1", 5671), ("mq2", 5671)]
    assert URL(with_one_host(url)).query["cafile"] == "/ca.pem"


def test_one_host_in_the_clear_is_enough_for_a_warning() -> None:
    assert in_the_clear("amqp://me:p@127.0.0.1,mq2/v")
    assert not in_the_clear("amqp://me:p@127.0.0.1,localhost/v")
    assert not in_the_clear("amqps://me:p@mq1,mq2/v")
