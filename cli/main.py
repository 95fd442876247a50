"""`vashsender`: the operator's command. Each group of verbs has its own file. A verb imports what it needs when it
runs, so that `--help` is fast."""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer

from cli.visible import visible
from shared.env_file import env_file, ignored_file, unread_lines
from shared.errors import ConfigurationError, VashSenderError

USAGE = 64
UNAVAILABLE = 69
INTERRUPTED = 130
COMPLETES = "_VASHSENDER_COMPLETE"
"""Typer's variable: a shell asks what the person may type next."""

OPERATIONS = "Operations"


@dataclass(frozen=True, slots=True)
class Verbs:
    """A module of `cli.commands`: it has an `app`, which is a group of verbs, or an `add_to` that adds several."""

    module: str
    #: What a person types first. Empty: the name of the module.
    names: tuple[str, ...] = ()
    #: The heading in `--help` for a group.
    panel: str | None = None

    @property
    def typed(self) -> tuple[str, ...]:
        return self.names or (self.module,)


VERBS = (
    Verbs("machine", ("start", "stop", "restart", "status", "monitor", "scale", "logs", "run")),
    Verbs("demo"),
    Verbs("campaign"),
    Verbs("suppressions"),
    Verbs("erase"),
    Verbs("events"),
    Verbs("webhook"),
    Verbs("inspect", panel=OPERATIONS),
    Verbs("limits", panel=OPERATIONS),
    Verbs("queues", ("purge", "dead")),
    Verbs("health", ("health-check", "doctor")),
    Verbs("db"),
    Verbs("topology"),
    Verbs("project"),
    Verbs("domain"),
    Verbs("key"),
    Verbs("audit"),
    Verbs("retention"),
    Verbs("dkim"),
    Verbs("access"),
    Verbs("config"),
)
"""In the order of `--help`."""


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command with the verbs that these arguments need: those of one module, or else all, as for `--help`."""
    app = typer.Typer(
        name="vashsender",
        help="Sends email campaigns: every recipient once, on time, with a record of who got it, who did not, and why.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        epilog="Exit codes: 0 ok, 64 usage, 65 bad data or not found, 69 unavailable, 75 timeout, 78 configuration.",
    )
    app.callback()(_vashsender)
    wanted = [verbs for verbs in VERBS if COMPLETES not in os.environ and arguments and arguments[0] in verbs.typed]
    for verbs in wanted or VERBS:
        module = import_module(f"cli.commands.{verbs.module}")
        if hasattr(module, "add_to"):
            module.add_to(app)
        else:
            app.add_typer(module.app, name=verbs.module, rich_help_panel=verbs.panel)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("vashsender"))
        raise typer.Exit


def _vashsender(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Has the options that belong to no verb."""


def main() -> None:
    """The console script: runs a verb and turns its errors into one line and an exit code."""
    os.umask(0o077)  # only the owner may read what it writes: ledger, logs, sockets, keys
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of one command."""
    # Libraries' logs are not for the operator: an error becomes one line and an exit code.
    logging.getLogger().addHandler(logging.NullHandler())
    only_reads_itself = "--help" in arguments or COMPLETES in os.environ
    try:
        if os.geteuid() == 0 and arguments and not only_reads_itself:
            _step_down()
        if COMPLETES not in os.environ and (ignored := ignored_file()) is not None:
            sys.stderr.write(f"vashsender: {ignored} is not read; VASHSENDER_ENV_FILE={ignored} makes it count\n")
        if not only_reads_itself:
            _tell_unread_lines()
        result = app_for(arguments)(arguments, prog_name="vashsender", standalone_mode=False)
    except typer.Exit as exiting:
        return exiting.exit_code
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("vashsender: interrupted\n")
        return INTERRUPTED
    except typer.TyperException as error:
        sys.stderr.write(f"vashsender: {error.format_message()} See `vashsender --help`.\n")
        return USAGE
    except VashSenderError as error:
        sys.stderr.write(f"vashsender: {visible(str(error))}\n")
        return error.exit_code
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does: flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _tell_unread_lines() -> None:
    try:
        for line in unread_lines():
            sys.stderr.write(f"vashsender: line {line} of {env_file()} is not NAME=value, so it does not count\n")
    except ConfigurationError:
        return  # the verb reports it, if it needs settings at all


def _step_down() -> None:
    """Drops root's rights if VASHSENDER_USER names a user."""
    try:
        if not os.environ.get("VASHSENDER_USER") and env_file() is None:
            return  # the usual case, without loading the settings
    except ConfigurationError:
        return  # the verb reports it
    from cli.local.user import step_down
    from cli.settings import local_settings

    try:
        config = local_settings()
    except ConfigurationError:
        return  # the verb reports it, if it needs settings at all
    step_down(config)
