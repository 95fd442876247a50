"""`vashsender dkim`: a domain's DKIM keys. Needs neither database nor broker."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json

app = typer.Typer(help="DKIM keys.", no_args_is_help=True)


@app.callback()
def dkim() -> None:
    """DKIM keys."""


@app.command()
def new(
    domain: Annotated[str, typer.Argument(help="Domain of the From addresses, such as example.com.")],
    selector: Annotated[str | None, typer.Option(help="The key's name in DNS. Default: from the date.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of the keys. Default: VASHSENDER_DKIM_DIR.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an RSA-2048 key that only you can read, and print the DNS record to publish."""
    from cli.output import say, show_json, show_text
    from cli.settings import local_settings
    from shared.dkim_keys import new_key
    from shared.errors import ConfigurationError

    folder = folder or local_settings().dkim_dir
    if folder is None:
        raise ConfigurationError(
            "Name the folder of the keys: --dir FOLDER, or VASHSENDER_DKIM_DIR, which senders read too."
        )
    key = new_key(folder, domain, selector)
    if as_json:
        show_json({"path": str(key.path), "name": key.record_name, "text": key.record_text, "active": key.active})
        return
    show_text(key.zone_line)
    say(f"The key is in {key.path}. Publish the record above, then")
    if key.active:
        say(f"restart the senders with VASHSENDER_DKIM_DIR={folder}.")
    else:
        say(f"rename the key to {key.path.with_suffix('').name}: the domain's older key signs until then.")
