"""`vashsender access`: an installation's accounts on broker and database. Connects to neither."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json

app = typer.Typer(help="Accounts on broker and database, one per service.", no_args_is_help=True)


@app.callback()
def access() -> None:
    """Accounts on broker and database, one per service."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder for the files; only you will be able to enter it.")],
    broker_host: Annotated[str, typer.Option(help="The broker, as HOST or HOST:PORT.")] = "localhost",
    database_host: Annotated[str, typer.Option(help="PostgreSQL, as HOST or HOST:PORT.")] = "localhost",
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS for both: amqps and sslmode=verify-full.")] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option(
            help="Renew this password: a service, admin, monitor, migrate, housekeeping or secret_key. Repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the address each service uses for broker and database, and the files that create those accounts. Keeps
    existing files."""
    from cli import access_files
    from cli.output import say, show_json

    unknown = set(renew or ()) - set(access_files.RENEWABLE)
    if unknown:
        raise typer.BadParameter(f"--renew takes: {', '.join(access_files.RENEWABLE)}.")
    written = access_files.write(folder, access_files.Servers(broker_host, database_host, tls), renew or ())
    if as_json:
        show_json({"folder": str(folder), "written": [path.name for path in written]})
        return
    for path in written:
        say(f"wrote {path}")
    say(
        f"RabbitMQ loads {folder / access_files.DEFINITIONS} (load_definitions); a superuser runs "
        f"{folder / access_files.ROLES_SQL} through psql. See docs/access.md."
        if written
        else "nothing to do: every file exists"
    )


@app.command()
def unsubscribe_key(
    secret_key: Annotated[Path, typer.Argument(help="The file of VASHSENDER_SECRET_KEY.", dir_okay=False)],
) -> None:
    """Print the key that senders sign unsubscribe links with, and nothing else. It follows from the secret key."""
    from cli import access_files
    from shared.errors import ConfigurationError

    try:
        typer.echo(access_files.unsubscribe_key_of(secret_key.read_text()))
    except OSError as error:
        raise ConfigurationError(f"cannot read {secret_key}: {error.strerror}") from error
