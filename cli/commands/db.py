"""`vashsender db`: the ledger's schema."""

import typer

from cli.options import Json

app = typer.Typer(help="The schema of the ledger.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Bring the database to the schema this version needs; repeating it changes nothing."""
    from cli.local.preparation import upgrade_database
    from cli.output import say
    from cli.settings import LocalSettings
    from shared import settings

    say(upgrade_database(settings.load(LocalSettings)))


@app.command()
def check(as_json: Json = False) -> None:
    """Compare the database with the schema this version needs; exit code 78 where it is missing or older."""
    import asyncio

    from cli import access
    from cli.output import say, show_json
    from cli.settings import LocalSettings
    from shared import settings
    from shared.errors import ConfigurationError
    from shared.ledger import migrate

    current, head = asyncio.run(access.revision(settings.load(LocalSettings))), migrate.head()
    suits = migrate.suits(current)
    if as_json:
        show_json({"current": current, "needed": head, "ok": suits})
    if not suits:
        raise ConfigurationError(
            f"the schema is at {current or 'nothing'}, this version needs {head}: run `vashsender db upgrade`"
        )
    if not as_json:
        fits = "as it should be" if current == head else f"newer than {head}: that will do"
        say(f"the schema is at {current}, {fits}")
