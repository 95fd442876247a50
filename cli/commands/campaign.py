"""`vashsender campaign`: campaigns, through the API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json, Key, Url, Yes

app = typer.Typer(help="Campaigns, through the API.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id that `campaign list` shows.")]


@app.command()
def create(
    path: Annotated[Path, typer.Argument(help="A campaign as a JSON file, or a folder with campaign.json.")],
    send_now: Annotated[bool, typer.Option("--send", help="Also import its recipients and send it.")] = False,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Create a draft and print its id. The JSON is as for the API; `html_file`, `text_file` and `recipients_file` may
    name files beside it."""
    from cli.campaign_files import create_campaign, import_recipients, read_campaign
    from cli.client import ApiClient

    files = read_campaign(path)
    with ApiClient(url, key) as api:
        campaign = create_campaign(api, files)
        if send_now:
            if files.recipients is not None:
                import_recipients(api, campaign["id"], files.recipients)
            campaign = api.post(f"/v1/campaigns/{campaign['id']}/send")
    _show_id(campaign, as_json)


@app.command("import")
def import_(
    campaign_id: Id,
    path: Annotated[
        Path, typer.Argument(help="Recipients as .csv, .tsv, .ndjson, .jsonl or .json; also packed as .gz or .zip.")
    ],
    email_column: Annotated[str | None, typer.Option(help="The column of the addresses. Default: email.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN:FIELD fills a field from a column of another name; may be repeated."),
    ] = None,
    boolean: Annotated[
        list[str] | None, typer.Option(help="A field whose words mean yes or no; may be repeated.")
    ] = None,
    charset: Annotated[
        str | None, typer.Option(help="The file's encoding, such as windows-1251. Default: UTF-8.")
    ] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Add recipients from a file, and report duplicates and invalid addresses by line."""
    from cli.campaign_files import import_recipients
    from cli.client import ApiClient
    from cli.output import say, show_json

    with ApiClient(url, key) as api:
        report = import_recipients(
            api,
            campaign_id,
            path,
            email_column=email_column,
            columns=column or None,
            types=[f"{name}:boolean" for name in boolean or ()] or None,
            charset=charset,
        )
    if as_json:
        show_json(report)
        return
    say(f"{report['accepted']} accepted, {report['duplicates']} duplicates, {report['invalid']} invalid")
    for problem in report.get("problems", []):
        say(f"  line {problem['line']}: {problem['error']}")


@app.command()
def send(
    campaign_id: Id,
    at: Annotated[
        str | None, typer.Option(help="When to start, such as 2030-01-31T09:00:00+03:00. Default: now.")
    ] = None,
    deliver_by: Annotated[str | None, typer.Option(help="Deadline: recipients still open then expire.")] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Send a campaign. Its content cannot be changed afterwards."""
    given = {"scheduled_at": at, "deliver_by": deliver_by}
    _act(campaign_id, "send", url, key, as_json, {name: value for name, value in given.items() if value is not None})


@app.command("list")
def list_(
    status: Annotated[list[str] | None, typer.Option(help="Only campaigns with this status; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """List campaigns, newest first."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        rows = api.get("/v1/campaigns", limit=limit, status=status)["data"]
    show_list(
        rows,
        ("Id", "Name", "Status", "Total", "Open", "Sent", "Failed", "Created"),
        [
            (
                row["id"],
                row["name"],
                row["status"],
                row["counts"]["total"],
                row["counts"]["pending"] + row["counts"]["deferred"],
                row["counts"]["sent"],
                row["counts"]["failed"],
                row["created_at"],
            )
            for row in rows
        ],
        as_json,
    )


@app.command()
def show(campaign_id: Id, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Show a campaign: status, counts and timeline."""
    from cli.client import ApiClient
    from cli.output import show_json, show_table

    with ApiClient(url, key) as api:
        campaign = api.get(f"/v1/campaigns/{campaign_id}")
        timeline = api.get(f"/v1/campaigns/{campaign_id}/timeline")["data"]
    if as_json:
        show_json({**campaign, "timeline": timeline})
        return
    shown = ("id", "name", "status", "reason", "blocked_by", "created_at", "started_at", "finished_at", "deliver_by")
    show_table(("", ""), [(name, campaign[name]) for name in shown if campaign[name] is not None])
    show_table(("", ""), list(campaign["counts"].items()))
    show_table(("When", "What"), [(entry["at"], entry["text"]) for entry in timeline])


@app.command()
def recipients(
    campaign_id: Id,
    status: Annotated[str | None, typer.Option(help="Only recipients with this status, such as failed.")] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """List a campaign's recipients with their results."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        rows = list(api.pages(f"/v1/campaigns/{campaign_id}/recipients", status=status))
    columns = ("email", "status", "attempts", "smtp_code", "enhanced_code", "reply")
    show_list(rows, columns, [tuple(row.get(name) for name in columns) for row in rows], as_json)


@app.command()
def export(
    campaign_id: Id,
    path: Annotated[Path, typer.Argument(help="The file: .csv or .ndjson, and .gz to pack it.")],
    status: Annotated[str | None, typer.Option(help="Only recipients with this status, such as failed.")] = None,
    url: Url = "",
    key: Key = "",
) -> None:
    """Write a campaign's recipients with their results into a file."""
    from cli.client import ApiClient
    from cli.downloads import export_recipients
    from cli.output import say

    with ApiClient(url, key) as api:
        written = export_recipients(api, campaign_id, path, status)
    say(f"{path}: {written:,} bytes")


@app.command()
def watch(
    campaign_id: Id,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to give up with exit code 75.")] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Follow a campaign until it closes. Ctrl-C stops following; the campaign continues."""
    from cli.client import ApiClient
    from cli.output import show_json
    from cli.watching import detached, follow, looks

    with ApiClient(url, key) as api:
        try:
            last = follow(looks(api, campaign_id, timeout_seconds=timeout))
        except KeyboardInterrupt:
            detached(campaign_id)
            return
    if as_json:
        show_json(last.campaign)


@app.command()
def pause(campaign_id: Id, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Pause a campaign. No email starts later than a second after the answer."""
    _act(campaign_id, "pause", url, key, as_json)


@app.command()
def resume(
    campaign_id: Id,
    refused: Annotated[
        bool | None,
        typer.Option(
            "--retry-refused/--keep-refused",
            help="If a breaker paused it: try the failed recipients again and delete the suppressions that followed, or"
            " leave both.",
            show_default=False,
        ),
    ] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Resume a paused campaign."""
    decision = {} if refused is None else {"refused": "retry" if refused else "keep"}
    _act(campaign_id, "resume", url, key, as_json, decision)


@app.command()
def cancel(campaign_id: Id, yes: Yes = False, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Cancel a campaign for good. Emails that have not been sent are never sent."""
    from cli.output import confirm

    confirm(f"Cancel campaign {campaign_id}? Emails that have not been sent are never sent.", yes)
    _act(campaign_id, "cancel", url, key, as_json)


@app.command("retry-failed")
def retry_failed(campaign_id: Id, url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Try the failed recipients of a closed campaign again."""
    _act(campaign_id, "retry-failed", url, key, as_json)


@app.command()
def preview(
    campaign_id: Id,
    email: Annotated[str | None, typer.Option(help="A recipient of the campaign. Default: the first.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A field instead of a recipient's; repeatable.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the HTML into this file, to open it in a browser.")] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Show the email to one person, as it would be sent, with warnings. Nothing is sent."""
    from cli.client import ApiClient
    from cli.output import say, show_json, show_text
    from shared.errors import DataError

    given: dict[str, Any] = {"email": email, "data": _fields(data) if data else None}
    with ApiClient(url, key) as api:
        body = {name: value for name, value in given.items() if value is not None}
        seen = api.post(f"/v1/campaigns/{campaign_id}/preview", body)
    if html is not None:
        try:
            html.write_text(seen["html"] or "", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{html} cannot be written: {error.strerror}") from None
    if as_json:
        show_json(seen)
        return
    if seen["problem"]:
        say(f"Problem: {seen['problem']}")
    for header in seen["headers"]:
        show_text(f"{header['name']}: {header['value']}")
    show_text(f"\n{seen['text'] or ''}")
    if seen["size_bytes"] is not None:
        say(f"{seen['size_bytes']} bytes, {len(seen['links'])} links, {len(seen['attachments'])} attachments")
    _warn(seen)


@app.command("test")
def send_test(
    campaign_id: Id,
    emails: Annotated[list[str], typer.Argument(metavar="EMAIL...", help="Addresses for the test, at most 10.")],
    data: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A field; repeatable.")] = None,
    url: Url = "",
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Send a campaign's message to a few addresses as a test. The campaign itself does not change."""
    fields = _fields(data)
    _act(campaign_id, "test", url, key, as_json, {"recipients": [{"email": each, "data": fields} for each in emails]})


def _fields(data: list[str] | None) -> dict[str, str]:
    from cli.output import UsageError

    pairs = [entry.partition("=") for entry in data or []]
    if not all(name and equals for name, equals, _ in pairs):
        raise UsageError("--data takes NAME=VALUE, such as --data first_name=Ann")
    return {name: value for name, _, value in pairs}


def _act(campaign_id: str, action: str, url: str, key: str, as_json: bool, body: dict[str, Any] | None = None) -> None:
    from cli.client import ApiClient

    with ApiClient(url, key) as api:
        campaign = api.post(f"/v1/campaigns/{campaign_id}/{action}", body)
    _show_id(campaign, as_json)


def _show_id(campaign: dict[str, Any], as_json: bool) -> None:
    """Prints the id on stdout for scripts, and the campaign's status in words on stderr."""
    from cli.output import say, show_json, show_text

    if as_json:
        show_json(campaign)
        return
    show_text(campaign["id"])
    say(f"{campaign['name']}: {campaign['status']}, {campaign['counts']['total']} recipients")
    _warn(campaign)


def _warn(shown: dict[str, Any]) -> None:
    """Prints the warnings about a message, with their places, on stderr."""
    from cli.output import say

    for one in shown.get("warnings", []):
        line = f", line {one['line']}, column {one['column']}" if one.get("line") else ""
        place = f"{one['pointer'].removeprefix('#/')}{line}: " if line else ""
        say(f"Warning: {place}{one['detail']}")
