"""`vashsender key`: who may use the API. Needs the database, not the API."""

from typing import Annotated
from uuid import UUID

import typer

from cli.options import Json, Yes

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown by `key list`.")], as_json: Json = False
) -> None:
    """Make a key and print it; it cannot be shown again."""
    import asyncio

    from cli import access
    from cli.output import out, show_json
    from cli.settings import LocalSettings
    from shared import settings

    secret = asyncio.run(access.create_key(settings.load(LocalSettings), name))
    if as_json:
        show_json({"name": name, "key": secret})
    else:
        out.print(secret, markup=False)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the keys, without their secrets."""
    import asyncio
    from dataclasses import asdict

    from cli import access
    from cli.output import moment, show_json, show_table
    from cli.settings import LocalSettings
    from shared import settings

    keys = asyncio.run(access.list_keys(settings.load(LocalSettings)))
    if as_json:
        show_json([asdict(key) for key in keys])
        return
    rows = [(key.id, key.name, moment(key.created_at), moment(key.revoked_at)) for key in keys]
    show_table(("Id", "Name", "Created", "Revoked"), rows)


@app.command()
def revoke(key_id: Annotated[UUID, typer.Argument(help="As `key list` shows it.")], yes: Yes = False) -> None:
    """Make a key useless from now on."""
    import asyncio

    from cli import access
    from cli.output import confirm, say
    from cli.settings import LocalSettings
    from shared import settings
    from shared.errors import DataError

    confirm(f"Revoke key {key_id}? Whoever uses it is refused from then on.", yes)
    if not asyncio.run(access.revoke_key(settings.load(LocalSettings), key_id)):
        raise DataError(f"there is no key {key_id} that could be revoked: see `vashsender key list`")
    say(f"revoked {key_id}")
