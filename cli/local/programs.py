"""The programs of one machine: command, environment, ports and log of each."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.settings import LocalSettings

if TYPE_CHECKING:
    from cli.local.broker import PrivateBroker

BROKER = "broker"
MAILBOX = "mailbox"
SENDER = "sender"
FEEDBACK = "feedback"
SERVICES = ("api", "dispatcher", "watchdog", "webhooks")
STOP_MARGIN_SECONDS = 10.0
BROKER_STOP_SECONDS = 50.0

# Besides VASHSENDER_*: what a Python program needs for its files, certificates and language.
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
PASSED_ON_PREFIXES = ("VASHSENDER_", "LC_", "PYTHON", "SSL_CERT_", "COVERAGE_")
# Secrets of one service or of the command, which no other program gets.
OWN_SECRETS: Mapping[str, Sequence[str]] = {
    "VASHSENDER_SECRET_KEY": ("api",),
    "VASHSENDER_UNSUBSCRIBE_KEY": (SENDER, FEEDBACK),
    "VASHSENDER_RELAYS": (SENDER,),
    "VASHSENDER_AMQP_ADMIN_URL": (),
    "VASHSENDER_API_KEY": (),
}


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    #: How long it may take to stop before it gets SIGKILL.
    stop_seconds: float
    #: Answers 200 once the program can work; empty if it has no HTTP port.
    ready_url: str
    #: The ports it listens on, by purpose.
    ports: Mapping[str, int]

    @property
    def service(self) -> str:
        return self.name.partition("-")[0]


def service_programs(config: LocalSettings, senders: int, settings: Mapping[str, str]) -> list[Program]:
    """The programs of the services, with `senders` senders, and with feedback if it has a port for mail. `settings` are
    added to each environment."""
    programs = [
        _api_program(config, settings),
        _service(config, "dispatcher", config.dispatcher_port, settings),
        _service(config, "watchdog", config.watchdog_port, settings),
        _service(config, "webhooks", config.webhooks_port, settings),
    ]
    if config.lmtp_port or config.smtp_port:
        programs.append(_feedback_program(config, settings))
    return programs + [sender_program(config, number, settings) for number in range(1, senders + 1)]


def _feedback_program(config: LocalSettings, settings: Mapping[str, str]) -> Program:
    own = {"VASHSENDER_UNSUBSCRIBE_KEY_FILE": str(unsubscribe_key_file(config))}
    program = _service(config, FEEDBACK, config.feedback_port, {**settings, **own})
    doors = {"LMTP of feedback": config.lmtp_port, "SMTP of feedback": config.smtp_port}
    return replace(program, ports={**program.ports, **{name: port for name, port in doors.items() if port}})


def sender_program(config: LocalSettings, number: int, settings: Mapping[str, str]) -> Program:
    """Sender `number`, from 1, with its slot name."""
    name = f"{SENDER}-{number}"
    own = {"VASHSENDER_SLOT": name, "VASHSENDER_UNSUBSCRIBE_KEY_FILE": str(unsubscribe_key_file(config))}
    return _service(config, name, config.sender_port + number - 1, {**settings, **own})


def broker_program(config: LocalSettings) -> Program:
    broker = broker_of(config)
    # No ports here: the broker checks them itself, because its own epmd may still hold one.
    return _program(config, BROKER, broker.command(), {}, stop_seconds=BROKER_STOP_SECONDS, ready_url="", ports={})


def mailbox_program(config: LocalSettings) -> Program:
    return _program(
        config,
        MAILBOX,
        [sys.executable, "-P", "-m", "cli.mailbox"],
        {
            "VASHSENDER_MAILBOX_PORT": str(config.mailbox_port),
            "VASHSENDER_MAILBOX_PAGE_PORT": str(config.mailbox_page_port),
        },
        stop_seconds=STOP_MARGIN_SECONDS,
        ready_url=f"http://{config.local_host}:{config.mailbox_page_port}/health/ready",
        ports={"development mailbox": config.mailbox_port, "its page": config.mailbox_page_port},
    )


def unsubscribe_key_file(config: LocalSettings) -> Path:
    """The file that holds the senders' signing key."""
    return config.secrets_dir / "unsubscribe_key"


def broker_of(config: LocalSettings) -> "PrivateBroker":
    """The private broker of this installation, running or not."""
    from cli.local.broker import PrivateBroker  # slow to import, and most callers need no broker

    return PrivateBroker(
        config.home / "broker",
        amqp_port=config.broker_port,
        management_port=config.broker_management_port,
        prometheus_port=config.broker_prometheus_port,
        dist_port=config.broker_dist_port,
        epmd_port=config.broker_epmd_port,
    )


def _api_program(config: LocalSettings, settings: Mapping[str, str]) -> Program:
    health = config.api_health_port
    program = _service(config, "api", config.api_port, {**settings, "VASHSENDER_HEALTH_PORT": str(health)})
    return replace(
        program,
        ready_url=f"http://{config.local_host}:{health}/health/ready",
        ports={**program.ports, "health of api": health},
    )


def _service(config: LocalSettings, name: str, port: int, settings: Mapping[str, str]) -> Program:
    service = name.partition("-")[0]
    return _program(
        config,
        name,
        [sys.executable, "-P", "-m", f"services.{service}"],
        {**settings, "VASHSENDER_HTTP_PORT": str(port)},
        stop_seconds=config.drain_seconds + STOP_MARGIN_SECONDS,
        ready_url=f"http://{config.local_host}:{port}/health/ready",
        ports={name: port},
    )


def _program(
    config: LocalSettings,
    name: str,
    argv: Sequence[str],
    settings: Mapping[str, str],
    *,
    stop_seconds: float,
    ready_url: str,
    ports: Mapping[str, int],
) -> Program:
    service = name.partition("-")[0]
    passed = {
        key: value
        for key, value in os.environ.items()
        if (key in PASSED_ON or key.startswith(PASSED_ON_PREFIXES))
        and service in OWN_SECRETS.get(key.removesuffix("_FILE"), (service,))
    }
    environment = {**passed, "VASHSENDER_VAR_DIR": str(config.home), **settings}
    return Program(name, argv, environment, config.logs / f"{name}.log", stop_seconds, ready_url, ports)
