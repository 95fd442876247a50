"""`python -m cli.mailbox`: runs until SIGTERM."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from cli.mailbox.maildir import Maildir
from cli.mailbox.page import application
from cli.mailbox.smtp import Mailbox
from cli.settings import LocalSettings, local_settings
from shared import logs
from shared.errors import ConfigurationError, VashSenderError

log = logs.get()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the mailbox decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(config: LocalSettings) -> None:
    """Serves SMTP and the page."""
    maildir = Maildir(config.home / "mailbox")
    mailbox = Mailbox(maildir)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    page = _Server(uvicorn.Config(application(maildir), log_config=None, access_log=False, lifespan="off"))
    listening = _listen(config.http_host, config.mailbox_page_port)
    server = await mailbox.serve(config.http_host, config.mailbox_port)
    serving = asyncio.create_task(page.serve(sockets=[listening]))
    log.info("mailbox.started", smtp_port=config.mailbox_port, page_port=config.mailbox_page_port)
    await stopping.wait()
    page.should_exit = True
    server.close()
    mailbox.close()
    await serving
    log.info("mailbox.stopped")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


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
                f"port {config.mailbox_port} or {config.mailbox_page_port} is taken: set VASHSENDER_MAILBOX_PORT and "
                "VASHSENDER_MAILBOX_PAGE_PORT to free ports."
            ) from None
    except VashSenderError as error:
        sys.stderr.write(f"mailbox: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
