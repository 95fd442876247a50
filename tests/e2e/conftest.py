"""A separate installation for each test, driven only by the command."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.broker import BrokerVhost
from tests.support.command import Command

CommandFactory = Callable[..., Command]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[CommandFactory]:
    """`installation(VASHSENDER_X="...")`: a new installation, stopped at the end."""
    with ExitStack() as stopping:

        def make(**settings: str) -> Command:
            command = Command(tmp_path, settings)
            stopping.callback(command, "stop")
            return command

        yield make


@pytest.fixture
def on_shared_broker(installation: CommandFactory, broker_vhost: BrokerVhost) -> Command:
    """An installation on the broker that all tests share, so that it need not start one."""
    return installation(VASHSENDER_AMQP_URL=broker_vhost.services_url, VASHSENDER_AMQP_ADMIN_URL=broker_vhost.admin_url)
