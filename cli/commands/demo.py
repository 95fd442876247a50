"""`vashsender demo`: everything started, the example campaign sent, and both sides counted."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = Path(__file__).parents[2] / "examples" / "spring-news"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="This machine")(demo)


def demo(
    kill_a_sender: Annotated[
        bool, typer.Option("--kill-a-sender", help="Kill one of the two senders in the middle (kill -9).")
    ] = False,
    campaign: Annotated[Path, typer.Option(help="The folder of the campaign to send.")] = EXAMPLE,
    timeout: Annotated[float, typer.Option(help="Seconds the campaign may take.")] = 120.0,
) -> None:
    """Start everything with two senders and a development mailbox, send the example campaign, and count both sides.

    Nothing leaves this machine. What was started keeps running; `vashsender stop` stops it."""
    from cli.demonstration import demonstrate
    from cli.settings import LocalSettings
    from shared import settings

    code = demonstrate(settings.load(LocalSettings), campaign, kill_a_sender=kill_a_sender, timeout_seconds=timeout)
    raise typer.Exit(code)
