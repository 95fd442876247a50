"""`vashsender limits`: how many emails a project and a relay may send, through the API."""

from typing import Annotated, Any

import typer

from cli.options import Json, Key, Url

app = typer.Typer(help="How many emails the project and each relay may send.", no_args_is_help=True)

Scope = Annotated[str, typer.Argument(help="`project`, or `relay:NAME`.")]


@app.command("list")
def list_(url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """List the limits, and the emails that count under them."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        rows = api.get("/v1/limits")["data"]
    show_list(
        rows,
        ("Scope", "Per second", "Per hour", "This hour", "Per day", "Today", "Waiting for"),
        [
            (
                row["scope"],
                row["emails_per_second"],
                row["emails_per_hour"],
                row["emails_this_hour"],
                row["cap_today"],
                row["emails_today"],
                row["waiting_for"],
            )
            for row in rows
        ],
        as_json,
    )


@app.command("set")
def set_(
    scope: Scope,
    per_second: Annotated[float | None, typer.Option(help="Emails per second, at most.")] = None,
    per_hour: Annotated[int | None, typer.Option(help="Emails in one hour of UTC, at most.")] = None,
    per_day: Annotated[int | None, typer.Option(help="Emails in one day of UTC, at most.")] = None,
    warmup: Annotated[
        tuple[int, float, int] | None,
        typer.Option(
            help="Emails on the first day, factor for each further day, and the emails per day at which it is over.",
            metavar="START GROWTH UNTIL",
        ),
    ] = None,
    url: Url = "",
    key: Key = "",
) -> None:
    """Set all limits of a scope. One that is left out is removed."""
    from cli.client import ApiClient
    from cli.output import say

    body: dict[str, Any] = {
        "emails_per_second": per_second,
        "emails_per_hour": per_hour,
        "emails_per_day": per_day,
        "warmup": warmup and dict(zip(("start", "growth_per_day", "until"), warmup, strict=True)),
    }
    with ApiClient(url, key) as api:
        api.put(f"/v1/limits/{scope}", body)
    say(f"{scope} is limited.")


@app.command()
def remove(scope: Scope, url: Url = "", key: Key = "") -> None:
    """Remove all limits of a scope."""
    from cli.client import ApiClient
    from cli.output import say

    with ApiClient(url, key) as api:
        api.delete(f"/v1/limits/{scope}")
    say(f"{scope} has no limit any more.")
