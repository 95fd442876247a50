"""Options that several verbs share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Url = Annotated[str, typer.Option(envvar="VASHSENDER_URL", help="URL of the API. Default: this installation's API.")]
Key = Annotated[
    str,
    typer.Option(
        envvar="VASHSENDER_API_KEY",
        help="The API key. Default: this installation's, in var/secrets/api_key.",
    ),
]
