"""An installation per test, driven by the command alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.broker import BrokerVhost
from tests.support.command import Command

CommandFactory = Callable[..., Command]


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[CommandFactory]:
    """`installation(VASHSENDER_X="...")`: an installation of one's own, stopped at the end."""
    with ExitStack() as stopping:

        def make(**settings: str) -> Command:
            command = Command(tmp_path, settings)
            stopping.callback(command, "stop")
            return command

        yield make


@pytest.fixture
def on_shared_broker(installation: CommandFactory, broker_vhost: BrokerVhost) -> Command:
    """An installation on a virtual host of the test run's broker, so that none has to be started."""
    return installation(VASHSENDER_AMQP_URL=broker_vhost.services_url, VASHSENDER_AMQP_ADMIN_URL=broker_vhost.admin_url)
