"""Options that several verbs share; each mirrors an environment variable where it has one."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Url = Annotated[
    str, typer.Option(envvar="VASHSENDER_URL", help="Where the API is. By default that of this installation.")
]
Key = Annotated[
    str,
    typer.Option(
        envvar="VASHSENDER_API_KEY",
        help="The API key. By default that of this installation, in var/secrets/api_key.",
    ),
]
