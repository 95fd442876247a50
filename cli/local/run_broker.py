"""`python -m cli.local.run_broker`: runs this installation's private broker in the foreground, for systemd.

It writes its addresses for the services' settings, and tells systemd when it answers clients.
"""

import os
import sys

from cli.local.programs import broker_of
from cli.settings import local_settings
from shared.errors import VashSenderError
from shared.notify import Notifier


def main() -> int:
    """Returns the exit code: 78 for a wrong setting, 69 if a port is taken or RabbitMQ is missing."""
    try:
        config = local_settings()
        broker = broker_of(config)
        broker.leave_addresses(config.secrets_dir)
        return broker.run(Notifier(os.environ).ready)
    except VashSenderError as error:
        sys.stderr.write(f"broker: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
