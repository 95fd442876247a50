"""`vashsender events`: what happens to recipients and campaigns, for programs, through the API."""

from typing import Annotated, Any

import typer

from cli.options import Json, Key, Url

app = typer.Typer(help="Events of recipients and campaigns, for programs.", no_args_is_help=True)

FOLLOW_SECONDS = 1.0
PAGE_EVENTS = 1000


@app.command("list")
def list_(
    after: Annotated[int, typer.Option(min=0, help="Only events after this position. 0: from the oldest kept.")] = 0,
    types: Annotated[str, typer.Option(help="Only these types, such as `recipient.failed,campaign.*`.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further events, until Ctrl-C.")] = False,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """List events, oldest first. With --json: one event a line (NDJSON)."""
    import time

    from cli.client import ApiClient
    from cli.output import say

    shown = 0
    with ApiClient(url, key) as api:
        while True:
            page = api.get("/v1/events", after=after, types=types or None, limit=min(PAGE_EVENTS, limit))
            if not page["enabled"]:
                say("This project wants no events: run `vashsender events enable`, or add a webhook.")
            for event in page["data"]:
                if shown == limit and not follow:
                    return
                _show(event, as_json=as_json)
                shown += 1
            moved, after = int(page["next_cursor"]) > after, int(page["next_cursor"])
            if not moved and not follow:
                return
            if not moved:
                time.sleep(FOLLOW_SECONDS)


@app.command()
def enable(url: Url = "", key: Key = "") -> None:
    """Have the project's events written."""
    _enable(url, key, enabled=True)


@app.command()
def disable(url: Url = "", key: Key = "") -> None:
    """Have events written only if the project has a webhook."""
    _enable(url, key, enabled=False)


def _enable(url: str, key: str, *, enabled: bool) -> None:
    from cli.client import ApiClient
    from cli.output import say

    with ApiClient(url, key) as api:
        stream = api.put("/v1/events/settings", {"enabled": enabled})
    say("Events are written." if stream["wanted"] else "Events are not written.")


def _show(event: dict[str, Any], *, as_json: bool) -> None:
    import json

    from cli.output import show_text

    if as_json:
        show_text(json.dumps(event))
        return
    data = event["data"]
    what = data.get("email") or data.get("name") or data.get("recipient_id") or ""
    why = data.get("reply") or data.get("reason") or ""
    show_text(f"{event['position']} {event['at']} {event['type']} {what} {why}")
