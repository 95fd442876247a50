"""Options that several verbs share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Url = Annotated[str, typer.Option(help="URL of the API. Default: VASHSENDER_URL, else this installation's API.")]
Key = Annotated[
    str,
    typer.Option(
        help="The API key. Default: VASHSENDER_API_KEY, else this installation's, in var/secrets/api_key.",
    ),
]
