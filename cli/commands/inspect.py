"""`vashsender inspect`: what is going on now, through the API."""

from collections.abc import Mapping
from typing import Any

import typer

from cli.options import Json, Key, Url
from shared.ledger.states import RecipientStatus

STATES = ("total", *(status.value for status in RecipientStatus))

app = typer.Typer(help="What is going on now, through the API.", no_args_is_help=True)


@app.command()
def active(url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Show which sender holds which batch, since when, and how much of it is done."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        batches = list(api.pages("/v1/batches", state="sending"))
    show_list(
        batches,
        ("Sender", "Batch", "Campaign", "Since", "Done", "Size", "Rescues"),
        [
            (
                batch["owner"],
                batch["id"],
                batch["campaign_id"],
                batch["claimed_at"],
                batch["size"] - batch["counts"]["pending"] - batch["counts"]["deferred"],
                batch["size"],
                batch["rescues"],
            )
            for batch in batches
        ],
        as_json,
    )


@app.command()
def stats(url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Show campaigns under way with totals and rates, and every process that is alive."""
    from cli.client import ApiClient
    from cli.output import show_json, show_table

    with ApiClient(url, key) as api:
        campaigns = list(api.pages("/v1/campaigns", status=["queued", "sending", "paused", "stopping"]))
        services = api.get("/v1/services")["data"]
    totals = {state: sum(row["counts"][state] for row in campaigns) for state in STATES}
    if as_json:
        show_json({"totals": totals, "campaigns": campaigns, "services": services})
        return
    show_table(
        ("Campaign", "Name", "Status", "Total", "Open", "Sent", "Failed", "Per second"),
        [
            (
                row["id"],
                row["name"],
                row["status"],
                *_total(row["counts"]),
                row["rates"]["average_per_second"],
            )
            for row in campaigns
        ]
        + [("all", None, None, *_total(totals), _per_second(campaigns))],
    )
    show_table(
        ("Process", "Service", "Slots", "Emails", "Per second", "Seen"),
        [
            (
                row["id"],
                row["service"],
                row["slots"] or None,
                row["detail"].get("emails_done"),
                row["detail"].get("emails_per_second"),
                row["seen_at"],
            )
            for row in services
            if row["alive"]
        ],
    )


@app.command()
def queues(url: Url = "", key: Key = "", as_json: Json = False) -> None:
    """Show messages and consumers of every queue."""
    from cli.client import ApiClient
    from cli.output import show_list

    with ApiClient(url, key) as api:
        rows = api.get("/v1/queues")["data"]
    show_list(
        rows,
        ("Queue", "Messages", "Consumers"),
        [(row["name"], row["messages"] if row["exists"] else "missing", row["consumers"]) for row in rows],
        as_json,
    )


def _total(counts: Mapping[str, int]) -> tuple[int, ...]:
    return counts["total"], counts["pending"] + counts["deferred"], counts["sent"], counts["failed"]


def _per_second(campaigns: list[Any]) -> float:
    return sum(row["rates"]["average_per_second"] or 0.0 for row in campaigns)
