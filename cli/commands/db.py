"""`vashsender db`: the ledger's schema."""

import typer

from cli.options import Json

app = typer.Typer(help="The schema of the ledger.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Upgrade the database to the schema that this version needs. Safe to repeat."""
    from cli.local.preparation import upgrade_database
    from cli.output import say
    from cli.settings import local_settings

    say(upgrade_database(local_settings()))


@app.command()
def check(as_json: Json = False) -> None:
    """Compare the database with the schema that this version needs. Exits with 78 if it is missing or older."""
    import asyncio

    from cli import access
    from cli.output import say, show_json
    from cli.settings import local_settings
    from shared.errors import ConfigurationError
    from shared.ledger import migrate

    current, head = asyncio.run(access.revision(local_settings())), migrate.head()
    suits = migrate.suits(current)
    if as_json:
        show_json({"current": current, "needed": head, "ok": suits})
    if not suits:
        raise ConfigurationError(
            f"the schema is at {current or 'nothing'}, this version needs {head}: run `vashsender db upgrade`"
        )
    if not as_json:
        fits = "as needed" if current == head else f"newer than {head}, which works too"
        say(f"the schema is at {current}, {fits}")
