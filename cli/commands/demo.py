"""`vashsender demo`: starts everything, sends the example campaign, and counts it from both sides."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = Path(__file__).parents[1] / "examples" / "spring-news"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="This machine")(demo)


def demo(
    kill_a_sender: Annotated[
        bool, typer.Option("--kill-a-sender", help="Kill one of the two senders halfway (kill -9).")
    ] = False,
    campaign: Annotated[Path, typer.Option(help="Folder of the campaign to send.")] = EXAMPLE,
    timeout: Annotated[float, typer.Option(help="Seconds that the campaign may take.")] = 120.0,
) -> None:
    """Start everything with two senders and a development mailbox, send the example campaign, and compare the ledger
    with the mailbox.

    No email leaves this machine. Everything keeps running; `vashsender stop` stops it."""
    from cli.demonstration import demonstrate
    from cli.settings import local_settings

    code = demonstrate(local_settings(), campaign, kill_a_sender=kill_a_sender, timeout_seconds=timeout)
    raise typer.Exit(code)
