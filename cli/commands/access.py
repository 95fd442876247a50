"""`vashsender access`: the accounts of an installation on broker and database. Needs neither."""

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
    folder: Annotated[Path, typer.Argument(help="Folder for the files; only you can enter it.")],
    broker_host: Annotated[str, typer.Option(help="The broker, as HOST or HOST:PORT.")] = "localhost",
    database_host: Annotated[str, typer.Option(help="PostgreSQL, as HOST or HOST:PORT.")] = "localhost",
    tls: Annotated[bool, typer.Option("--tls", help="Reach both with TLS only: amqps, sslmode=verify-full.")] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option(help="A new password for this one: a service, admin, monitor, migrate or secret_key. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what each service needs to reach broker and database, and what makes those accounts there. Files that
    exist are kept."""
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
        else "every file is there already"
    )
