"""`vashsender config`: every setting, its value and where it comes from."""

import typer

from cli.options import Json

app = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)


@app.command()
def show(as_json: Json = False) -> None:
    """Print every setting and its source, with secrets masked. Exits with 78 if a setting is wrong."""
    from cli.effective import effective_settings
    from cli.output import show_list

    found = effective_settings()
    show_list(
        {setting.variable: {"value": setting.value, "source": setting.source} for setting in found},
        ("Setting", "Value", "Source"),
        [(each.variable, each.value, each.source) for each in found],
        as_json,
    )
