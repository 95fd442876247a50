"""`vashsender erase`: erases a person, through the API."""

import sys
import time
from typing import Annotated

import typer

from cli.options import Json, Key, Url, Yes

POLL_SECONDS = 2.0


def add_to(app: typer.Typer) -> None:
    app.command("erase")(erase)


def erase(
    all_projects: Annotated[
        bool, typer.Option("--all-projects", help="From every project; needs a key with the scope `operator`.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Minutes to wait until it is done. 0: do not wait.")] = 10.0,
    yes: Yes = False,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Erase a person: everything but counts, and a keyed hash by which the person stays suppressed.

    The address is asked for, or read from standard input: as an argument, other users of this machine would see it."""
    from cli.client import ApiClient, ApiTimeoutError
    from cli.output import say, show_json

    email = _address(all_projects=all_projects, yes=yes)
    until = time.monotonic() + timeout * 60
    body = {"email": email, "all_projects": all_projects}
    with ApiClient(url, key) as api:
        answer = api.post("/v1/erase", body)
        while answer["state"] != "done" and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            answer = api.post("/v1/erase", body)
    if as_json:
        show_json(answer)
    else:
        where = f"; projects done: {answer['projects_done']} of {answer['projects']}" if all_projects else ""
        say(f"{answer['state']}; recipients erased: {answer['recipients']}{where}")
    if answer["state"] != "done" and timeout:
        raise ApiTimeoutError("The erasure goes on. Repeat the command to see how far it is.")


def _address(*, all_projects: bool, yes: bool) -> str:
    """From standard input, or from the person at the terminal, who also confirms it. Raises UsageError."""
    from cli.output import UsageError, confirm

    if not sys.stdin.isatty():
        if not yes:
            raise UsageError("give --yes if the address comes from standard input")
        return sys.stdin.read(2000).strip()
    email = str(typer.prompt("Address", err=True)).strip()
    where = "every project" if all_projects else "this project"
    confirm(f"Erase this person from {where}? It cannot be undone.", yes)
    return email
