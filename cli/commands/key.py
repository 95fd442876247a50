"""`vashsender key`: API keys. Uses the database, not the API."""

from typing import Annotated
from uuid import UUID

import typer

from cli.options import Json, Yes

app = typer.Typer(help="API keys.", no_args_is_help=True)

KeyId = Annotated[UUID, typer.Argument(help="The id that `key list` shows.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, shown by `key list`.")],
    project: Annotated[str, typer.Option(help="The project it belongs to.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do; repeatable. Default: all, but `operator` only in the project `default`."),
    ] = None,
    expires_days: Annotated[float | None, typer.Option(min=0.001, max=36500, help="Days until it expires.")] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="The only domains it may send from; repeatable. Default: the project's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    import asyncio

    from cli import tenants
    from cli.settings import local_settings

    wish = tenants.KeyWish(name, project, scope or (), expires_days, domain or ())
    _show(asyncio.run(tenants.create_key(local_settings(), wish)), name, as_json=as_json)


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None, as_json: Json = False
) -> None:
    """List the keys without their secrets."""
    import asyncio
    from dataclasses import asdict

    from cli import tenants
    from cli.output import moment, show_list
    from cli.settings import local_settings

    keys = asyncio.run(tenants.list_keys(local_settings(), project))
    rows = [
        (
            key.id,
            key.name,
            key.project,
            " ".join(sorted(key.scopes)),
            " ".join(key.sender_domains or ()),
            *map(moment, (key.created_at, key.last_used_at, key.expires_at, key.revoked_at)),
        )
        for key in keys
    ]
    show_list(
        [{**asdict(key), "scopes": sorted(key.scopes)} for key in keys],
        ("Id", "Name", "Project", "Scopes", "Domains", "Created", "Last used", "Expires", "Revoked"),
        rows,
        as_json,
    )


@app.command()
def rotate(
    key_id: KeyId,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=8760, help="Hours for which the old key works beside the new one.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Create a key that may do the same, print it, and let the old one expire."""
    import asyncio

    from cli import tenants
    from cli.settings import local_settings

    _show(asyncio.run(tenants.rotate_key(local_settings(), key_id, overlap_hours)), str(key_id), as_json=as_json)


@app.command()
def revoke(key_id: KeyId, yes: Yes = False) -> None:
    """Revoke a key at once."""
    import asyncio

    from cli import tenants
    from cli.output import confirm, say
    from cli.settings import local_settings

    confirm(f"Revoke key {key_id}? Requests with it are refused from then on.", yes)
    asyncio.run(tenants.revoke_key(local_settings(), key_id))
    say(f"revoked {key_id}")


def _show(secret: str, name: str, *, as_json: bool) -> None:
    from cli.output import show_json, show_text

    if as_json:
        show_json({"name": name, "key": secret})
    else:
        show_text(secret)
