"""`vashsender audit`: who did what. Uses the database, not the API."""

from datetime import datetime
from typing import Annotated

import typer

from cli.options import Json

app = typer.Typer(help="Who did what, on what, from where, with what result.", no_args_is_help=True)


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only what was done in this project.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this key (its id) or user did.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this moment on, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    as_json: Json = False,
) -> None:
    """List what was done, newest first. With --json: one entry a line (NDJSON)."""
    import asyncio
    import json
    from dataclasses import asdict

    from cli import tenants
    from cli.output import moment, show_table, show_text
    from cli.settings import local_settings

    found = asyncio.run(tenants.list_audit(local_settings(), project, actor, since, limit))
    if as_json:
        for one in found:
            show_text(json.dumps(asdict(one), default=str))
        return
    rows = [(moment(one.at), one.via, one.actor_name, one.action, one.target, one.address, one.result) for one in found]
    show_table(("At", "Via", "Who", "Action", "On what", "From", "Result"), rows)


@app.command()
def forget(
    older_than_days: Annotated[float, typer.Option(min=1, help="Delete entries that are older than this.")] = 400.0,
) -> None:
    """Delete old entries. Only the owner of the database and the role `vashsender_housekeeping` may."""
    import asyncio

    from cli import tenants
    from cli.output import say
    from cli.settings import local_settings

    deleted = asyncio.run(tenants.forget_audit(local_settings(), older_than_days))
    say(f"{deleted} entries deleted")
