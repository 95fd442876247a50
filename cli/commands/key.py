"""`vashsender key`: API keys. Uses the database, not the API."""

from typing import Annotated
from uuid import UUID

import typer

from cli.options import Json, Yes

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, shown by `key list`.")], as_json: Json = False
) -> None:
    """Create a key and print it. It cannot be shown again."""
    import asyncio

    from cli import access
    from cli.output import out, show_json
    from cli.settings import local_settings

    secret = asyncio.run(access.create_key(local_settings(), name))
    if as_json:
        show_json({"name": name, "key": secret})
    else:
        out.print(secret, markup=False)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the keys without their secrets."""
    import asyncio
    from dataclasses import asdict

    from cli import access
    from cli.output import moment, show_json, show_table
    from cli.settings import local_settings

    keys = asyncio.run(access.list_keys(local_settings()))
    if as_json:
        show_json([asdict(key) for key in keys])
        return
    rows = [(key.id, key.name, moment(key.created_at), moment(key.revoked_at)) for key in keys]
    show_table(("Id", "Name", "Created", "Revoked"), rows)


@app.command()
def revoke(key_id: Annotated[UUID, typer.Argument(help="The id that `key list` shows.")], yes: Yes = False) -> None:
    """Revoke a key at once."""
    import asyncio

    from cli import access
    from cli.output import confirm, say
    from cli.settings import local_settings
    from shared.errors import DataError

    confirm(f"Revoke key {key_id}? Requests with it are refused from then on.", yes)
    if not asyncio.run(access.revoke_key(local_settings(), key_id)):
        raise DataError(f"there is no valid key {key_id}: see `vashsender key list`")
    say(f"revoked {key_id}")
