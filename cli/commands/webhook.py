"""`vashsender webhook`: URLs to which the events of a project go, through the API."""

from datetime import datetime
from typing import Annotated, Any

import typer

from cli.options import Json, Key, Url, Yes

app = typer.Typer(help="URLs to which the project's events go.", no_args_is_help=True)

Webhook = Annotated[str, typer.Argument(help="The webhook's id.")]
Types = Annotated[str, typer.Option(help="Only these types, such as `recipient.*,campaign.finished`. Empty: all.")]


@app.command("list")
def list_(url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """List the webhooks, and how far each has come."""
    from cli.client import ApiClient
    from cli.output import show_json, show_table

    with ApiClient(url, key) as api:
        rows = api.get("/v1/webhooks")["data"]
    if as_json:
        show_json(rows)
        return
    show_table(
        ("Id", "URL", "State", "Behind", "Set aside", "Last success", "What is wrong"),
        [
            (
                row["id"],
                row["url"],
                row["state"],
                row["behind"],
                row["set_aside"],
                row["last_success_at"],
                row["last_error"],
            )
            for row in rows
        ],
    )


@app.command()
def create(
    to: Annotated[str, typer.Argument(help="Where the events go: an https URL.")],
    types: Types = "",
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Create a webhook. Prints its secret, which is not shown again."""
    body = {"url": to, "types": [name for name in types.split(",") if name.strip()]}
    _show_secret(_post("/v1/webhooks", url, key, body), as_json=as_json)


@app.command()
def rotate(webhook: Webhook, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Print a new secret. The old one signs beside it for a day."""
    _show_secret(_post(f"/v1/webhooks/{webhook}/rotate", url, key), as_json=as_json)


@app.command("test")
def send_test(webhook: Webhook, url: Url = "", key: Key = "") -> None:
    """Send a test event. `vashsender webhook list` shows what came of it."""
    from cli.output import say

    _post(f"/v1/webhooks/{webhook}/test", url, key)
    say("A test event is on its way.")


@app.command()
def pause(webhook: Webhook, url: Url = "", key: Key = "") -> None:
    """Deliver nothing until it is resumed. Events wait, up to their retention."""
    _set_state(webhook, "paused", url, key)


@app.command()
def resume(webhook: Webhook, url: Url = "", key: Key = "") -> None:
    """Deliver again, also if it was disabled: it goes on where it was."""
    _set_state(webhook, "active", url, key)


@app.command()
def replay(
    webhook: Webhook,
    since: Annotated[datetime | None, typer.Option(help="Every event from this moment on, in UTC.")] = None,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="The events that it refused.")] = False,
    url: Url = "",
    key: Key = "",
) -> None:
    """Deliver events again."""
    from datetime import UTC

    from cli.output import say

    body: dict[str, Any] = {"set_aside": set_aside}
    if since is not None:
        body["since"] = since.replace(tzinfo=since.tzinfo or UTC).isoformat()
    done = _post(f"/v1/webhooks/{webhook}/replay", url, key, body)
    say("They are delivered again." if done["events"] is None else f"{done['events']} events are delivered again.")


@app.command("set-aside")
def set_aside_(webhook: Webhook, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """List the events that it refused."""
    from cli.client import ApiClient
    from cli.output import show_json, show_table

    with ApiClient(url, key) as api:
        rows = list(api.pages(f"/v1/webhooks/{webhook}/set-aside"))
    if as_json:
        show_json(rows)
        return
    show_table(("Position", "At", "What it said"), [(row["position"], row["at"], row["error"]) for row in rows])


@app.command()
def delete(webhook: Webhook, yes: Yes = False, url: Url = "", key: Key = "") -> None:
    """Delete a webhook, with its secret and what was set aside."""
    from cli.client import ApiClient
    from cli.output import confirm, say

    confirm(f"Delete the webhook {webhook}?", yes)
    with ApiClient(url, key) as api:
        api.delete(f"/v1/webhooks/{webhook}")
    say("Deleted.")


def _set_state(webhook: str, state: str, url: str, key: str) -> None:
    from cli.client import ApiClient
    from cli.output import say

    with ApiClient(url, key) as api:
        api.patch(f"/v1/webhooks/{webhook}", {"state": state})
    say(f"The webhook is {state}.")


def _post(path: str, url: str, key: str, body: dict[str, Any] | None = None) -> Any:
    from cli.client import ApiClient

    with ApiClient(url, key) as api:
        return api.post(path, body)


def _show_secret(made: dict[str, Any], *, as_json: bool) -> None:
    from cli.output import show_json, show_text

    if as_json:
        show_json(made)
        return
    show_text(f"id      {made['id']}")
    show_text(f"secret  {made['secret']}")
