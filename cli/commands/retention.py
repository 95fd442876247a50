"""`vashsender retention`: how long results are kept. Uses the database, not the API."""

from typing import Annotated

import typer

from cli.options import Json, Yes

app = typer.Typer(
    help="How long recipients and results of campaigns that ended are kept, and what is deleted after that.",
    no_args_is_help=True,
)


@app.command()
def show(as_json: Json = False) -> None:
    """Show what each project keeps, and what would be deleted now. Changes nothing."""
    import asyncio
    from dataclasses import asdict

    from cli import retention
    from cli.output import moment, say, show_list
    from cli.settings import local_settings

    now, projects = asyncio.run(retention.preview(local_settings()))
    rows = [
        (
            one.project,
            _kept_for(one.days) + ("" if one.is_own else " (setting)"),
            one.kept_campaigns,
            one.kept_recipients,
            moment(one.oldest_end),
            one.due_campaigns,
            one.due_recipients,
            _size(one.due_bytes),
        )
        for one in projects
    ]
    columns = ("Project", "Kept for", "Campaigns", "Recipients", "Oldest end", "Would go", "Recipients", "About")
    show_list([asdict(one) for one in projects], columns, rows, as_json)
    if not as_json:
        say(f"By the database's clock it is {moment(now)}.")


@app.command("set")
def set_(
    project: Annotated[str, typer.Argument(help="The project's name.")],
    days: Annotated[
        str, typer.Argument(help="Days after the end of a campaign, or `forever`, or `default` for the setting.")
    ],
    yes: Yes = False,
) -> None:
    """Set how long a project keeps recipients and results. What is older is deleted for good from then on."""
    import asyncio

    from cli import retention
    from cli.output import confirm, say
    from cli.settings import local_settings

    wanted = _days(days)
    config = local_settings()
    kept_for = wanted if wanted is not None else config.retention_days
    if kept_for:
        confirm(f"Delete results of {project} {kept_for} days after the end of a campaign, for good?", yes)
    asyncio.run(retention.set_days(config, project, wanted))
    say(f"{project}: results are kept {_kept_for(kept_for)}; see `vashsender retention show`")


@app.command()
def run(yes: Yes = False) -> None:
    """Delete now what is past its retention, and wait for the end. The API does the same by itself."""
    import asyncio

    from cli import retention
    from cli.output import confirm, moment, say
    from cli.settings import local_settings

    config = local_settings()
    now, projects = asyncio.run(retention.preview(config))
    campaigns, people = sum(one.due_campaigns for one in projects), sum(one.due_recipients for one in projects)
    say(f"By the database's clock it is {moment(now)}.")
    confirm(f"Delete the results of {campaigns} campaigns with {people} recipients, for good?", yes)
    told = ""

    def tell(progress: retention.Progress) -> None:
        """Each message once."""
        nonlocal told
        if progress.is_elsewhere:
            text = "Another process deletes now; this waits for its end."
        elif progress.waiting:
            text = f"{progress.waiting} campaigns are marked. Deletion begins once older transactions have ended."
        else:
            text = f"{progress.recipients // TOLD_ROWS * TOLD_ROWS} recipients deleted"
        if text != told:
            told = text
            say(text)

    done = asyncio.run(retention.run(config, tell))
    say(f"done: {done.campaigns} campaigns, {done.recipients} recipients and {done.reports} reports deleted")


TOLD_ROWS = 100_000


def _days(text: str) -> int | None:
    from cli.output import UsageError
    from shared.ledger.forgetting.due import MOST_DAYS

    if text in ("forever", "default"):
        return 0 if text == "forever" else None
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST_DAYS:
        raise UsageError(f"{text!r} is neither a number of days from 1 to {MOST_DAYS}, nor `forever`, nor `default`.")
    return int(text)


def _kept_for(days: int) -> str:
    return f"{days} days" if days else "for ever"


def _size(octets: int) -> str:
    return f"{octets / 1_000_000:.1f} MB"
