"""`vashsender start|stop|restart|status|monitor|scale|logs|run`: the processes on this machine."""

import re
from enum import StrEnum
from typing import Annotated

import typer

from cli.options import Json


class Service(StrEnum):
    api = "api"
    dispatcher = "dispatcher"
    feedback = "feedback"
    sender = "sender"
    watchdog = "watchdog"
    webhooks = "webhooks"
    mailbox = "mailbox"

    @property
    def module(self) -> str:
        """The module for `python -m`. The development mailbox is part of the command, not a service."""
        return "cli.mailbox" if self is Service.mailbox else f"services.{self}"


def add_to(app: typer.Typer) -> None:
    """Adds the verbs to the command itself."""
    for verb in (start, stop, restart, status, monitor, scale, logs, run):
        app.command(rich_help_panel="This machine")(verb)


def start(
    senders: Annotated[
        int | None, typer.Option(min=0, help="Number of senders. Default: VASHSENDER_SENDER_PROCESSES.")
    ] = None,
    mailbox: Annotated[bool, typer.Option("--mailbox", help="Also run the development mailbox.")] = False,
) -> None:
    """Start everything under supervision and wait until it is ready. Leaves running processes alone."""
    from cli.local.control import control
    from cli.local.installation import Installation
    from cli.output import say
    from cli.settings import local_settings

    config = local_settings()
    with control(config, "start"):
        Installation(config).start(senders=config.sender_processes if senders is None else senders, mailbox=mailbox)
    say(f"VashSender is running: {config.api_url} (key: {config.secrets_dir / 'api_key'}). `vashsender stop` stops it.")


def stop() -> None:
    """Stop everything. Senders finish the emails in flight first; the private broker stops last."""
    from cli.local.control import control
    from cli.local.installation import Installation
    from cli.output import say
    from cli.settings import local_settings

    config = local_settings()
    with control(config, "stop"):
        Installation(config).stop()
    say("VashSender is stopped.")


def restart() -> None:
    """Restart the services one after the other with the current settings. Running campaigns continue."""
    from cli.local.control import control
    from cli.local.installation import Installation
    from cli.settings import local_settings

    config = local_settings()
    with control(config, "restart"):
        Installation(config).restart()


def status(as_json: Json = False) -> None:
    """Show state, uptime, restarts, CPU and memory of every process. Exits with 69 if one is not running."""
    from dataclasses import asdict

    from cli.local.processes import RUNNING, processes
    from cli.local.supervise import Supervisor
    from cli.output import duration, show_list
    from cli.place import place

    here = place()
    found = processes(Supervisor(here.run_dir, here.logs).states())
    show_list(
        [asdict(process) for process in found],
        ("Process", "State", "Pid", "Uptime", "Restarts", "CPU %", "Memory MB"),
        [
            (
                process.name,
                process.state,
                process.pid or None,
                duration(process.uptime_seconds),
                process.restarts,
                round(process.cpu_percent),
                round(process.memory_bytes / 1e6),
            )
            for process in found
        ],
        as_json,
    )
    if any(process.state != RUNNING for process in found):
        raise typer.Exit(69)


def monitor() -> None:
    """Show every process live, and restart supervisord if it dies. Ctrl-C ends only the display."""
    import contextlib

    from cli.local.installation import Installation
    from cli.monitoring import monitor as watch
    from cli.settings import local_settings

    with contextlib.suppress(KeyboardInterrupt):
        watch(Installation(local_settings()))


def scale(
    what: Annotated[str, typer.Argument(metavar="sender=NUMBER", help="Number of senders to run.")],
) -> None:
    """Run more or fewer senders while campaigns run. Remaining senders keep their process and batches."""
    from cli.local.control import control
    from cli.local.installation import Installation
    from cli.output import UsageError, say
    from cli.settings import local_settings

    match = re.fullmatch(r"senders?=(\d{1,3})", what)
    if match is None:
        raise UsageError(f"cannot read {what!r}: use, for example, `vashsender scale sender=4`")
    config = local_settings()
    with control(config, f"scale {what}") as result:
        added, removed = Installation(config).scale(int(match.group(1)))
        result.text = f"started: {', '.join(added) or 'none'}; stopped: {', '.join(removed) or 'none'}"
    say(result.text)


def logs(
    service: Annotated[
        str, typer.Argument(metavar="[SERVICE]", help="A process such as sender-1, or a service. Default: all.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of lines to start with.")] = 50,
    campaign: Annotated[str, typer.Option(help="Only lines about this campaign, from every service.")] = "",
    as_json: Json = False,
) -> None:
    """Show the services' logs: readable on a terminal, otherwise as written."""
    from cli.local.log_files import show_logs
    from cli.settings import local_settings

    show_logs(local_settings().logs, service, follow=follow, lines=lines, campaign=campaign, raw=as_json)


def run(
    service: Annotated[Service, typer.Argument(help="A service, or the development mailbox.")],
    port: Annotated[int | None, typer.Option(help="HTTP port. [env: VASHSENDER_HTTP_PORT]")] = None,
    connections: Annotated[
        int | None, typer.Option(help="SMTP connections per relay. [env: VASHSENDER_SMTP_CONNECTIONS]")
    ] = None,
    batches_in_hand: Annotated[
        int | None, typer.Option(help="Batches a sender may hold at once. [env: VASHSENDER_BATCHES_IN_HAND]")
    ] = None,
    slot: Annotated[str | None, typer.Option(help="A sender's slot name. [env: VASHSENDER_SLOT]")] = None,
    log_format: Annotated[
        str | None, typer.Option(help="text or json. Default: text on a terminal. [env: VASHSENDER_LOG_FORMAT]")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="[env: VASHSENDER_LOG_LEVEL]")] = None,
) -> None:
    """Run one service here, in the foreground, until Ctrl-C."""
    import os
    import sys

    given = {
        "HTTP_PORT": port,
        "SMTP_CONNECTIONS": connections,
        "BATCHES_IN_HAND": batches_in_hand,
        "SLOT": slot,
        "LOG_FORMAT": log_format,
        "LOG_LEVEL": log_level,
    }
    environment = dict(os.environ)
    if sys.stdout.isatty():
        environment.setdefault("VASHSENDER_LOG_FORMAT", "text")
    environment |= {f"VASHSENDER_{name}": str(value) for name, value in given.items() if value is not None}
    # This process becomes the service, so signals reach the service and its exit code is ours.
    os.execve(sys.executable, [sys.executable, "-P", "-m", service.module], environment)  # noqa: S606
