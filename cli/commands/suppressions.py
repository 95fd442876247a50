"""`vashsender suppressions`: addresses to which a project does not write, through the API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json, Key, Url, Yes

app = typer.Typer(help="Suppressed addresses, through the API.", no_args_is_help=True)

Campaign = Annotated[str | None, typer.Option("--campaign", help="Only those that this campaign led to.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Only those with this reason: manual, unsubscribed, bounced, complained, erased."),
]


@app.command("list")
def list_(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """List suppressed addresses, newest first."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        rows = api.get("/v1/suppressions", limit=limit, reason=reason)["data"]
    columns = ("email", "reason", "provisional", "campaign_id", "created_at", "detail")
    shown = [row | {"email": row["email"] or "erased person"} for row in rows]
    show_list(rows, columns, [tuple(row.get(name) for name in columns) for row in shown], as_json)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="The file: .csv or .ndjson, and .gz to pack it.")],
    reason: Reason = None,
    url: Url = "",
    key: Key = "",
) -> None:
    """Write all suppressed addresses into a file."""
    from cli.client import ApiClient
    from cli.downloads import export_suppressions
    from cli.output import say

    with ApiClient(url, key) as api:
        written = export_suppressions(api, path, reason)
    say(f"{path}: {written:,} bytes")


@app.command()
def remove(
    emails: Annotated[list[str] | None, typer.Argument(metavar="[EMAIL]...", help="Single addresses.")] = None,
    campaign: Campaign = None,
    reason: Reason = None,
    since: Annotated[
        str | None, typer.Option(help="Only those made then or later, such as 2030-01-31T09:00:00+03:00.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many there are, and remove none.")] = False,
    yes: Yes = False,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Allow emails again to the given addresses, or to all that meet every condition given."""
    from cli.client import ApiClient
    from cli.output import UsageError, confirm, say, show_json

    given = {"campaign_id": campaign, "reason": reason, "since": since}
    conditions: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if bool(emails) == bool(conditions) or (emails and dry_run):
        raise UsageError("give either addresses, or some of --campaign, --reason and --since")
    with ApiClient(url, key) as api:
        if emails:
            for email in emails:
                api.delete("/v1/suppressions", email=email)
            say(f"{len(emails)} removed")
            return
        answer = api.delete("/v1/suppressions", **conditions, dry_run=True)
        if not dry_run:
            confirm(f"Remove {answer['matching']} suppressions? These addresses get emails again.", yes)
            answer = api.delete("/v1/suppressions", **conditions)
    if as_json:
        show_json(answer)
    else:
        say(f"{answer['matching']} would be removed" if dry_run else f"{answer['removed']} removed")
