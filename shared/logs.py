"""Structured logs: JSON for machines or readable lines for people, always with `service` and `instance`."""

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Literal

from shared.plain_structlog import structlog


def configure(service: str, instance: str, *, log_format: Literal["json", "text"], level: str) -> None:
    """Sends all logs, including those of libraries, to stdout in one format."""

    def identify(
        _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        event["instance"] = instance
        return event

    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        identify,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
        if log_format == "json"
        # Without the values of local variables: they may be secrets.
        else [structlog.dev.ConsoleRenderer(sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.INFO), force=True)
    # Only warnings and errors of libraries: their ordinary logs would bury a campaign's events.
    for name in (
        "uvicorn.access",
        "aio_pika",
        "aiormq",
        "alembic",
        "faststream",
        "httpx",
        "httpcore",
        "sqlalchemy",
        "uvicorn.error",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def write_to(path: Path) -> None:
    """Sends stdout and stderr to a file that only its owner can read. SIGHUP reopens it, so that log rotation can
    rename it first without losing a line. Raises OSError."""

    def open_file(_number: int = 0, _frame: FrameType | None = None) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)

    open_file()
    signal.signal(signal.SIGHUP, open_file)


def get() -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
