"""`python -m cli.mailbox`: runs the development mailbox until SIGTERM."""

import asyncio
import errno
import signal
import sys

import uvloop

from cli.mailbox.maildir import Maildir
from cli.mailbox.page import application
from cli.mailbox.smtp import Mailbox
from cli.settings import LocalSettings, local_settings
from shared import logs
from shared.errors import ConfigurationError, VashSenderError
from shared.http_connection import HttpLimits
from shared.http_port import serving
from shared.ports import holder

log = logs.get()


async def run(config: LocalSettings) -> None:
    """Serves SMTP and the page until SIGTERM or SIGINT."""
    maildir = Maildir(config.home / "mailbox")
    mailbox = Mailbox(maildir)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    limits, setting = HttpLimits.of(config), "VASHSENDER_MAILBOX_PAGE_PORT"
    page = serving(application(maildir), config.http_host, config.mailbox_page_port, limits, setting)
    async with page, await mailbox.serve(config.http_host, config.mailbox_port) as server:
        log.info("mailbox.started", smtp_port=config.mailbox_port, page_port=config.mailbox_page_port)
        await stopping.wait()
        server.close()
        mailbox.close()
    log.info("mailbox.stopped")


def main() -> None:
    try:
        config = local_settings()
        logs.configure("mailbox", "mailbox", log_format=config.log_format, level=config.log_level)
        try:
            uvloop.run(run(config))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ConfigurationError(
                f"port {config.mailbox_port} is taken by {holder(config.mailbox_port)}. Stop that process, or set "
                "VASHSENDER_MAILBOX_PORT to a free port."
            ) from None
    except VashSenderError as error:
        sys.stderr.write(f"mailbox: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
