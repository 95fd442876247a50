"""`vashsender purge` and `vashsender dead`: messages on the broker. None of them is mail."""

from typing import Annotated

import typer

from cli.options import Json, Yes

dead = typer.Typer(help="Messages that were given up after too many attempts.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most, oldest first.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Operations")(purge)
    app.add_typer(dead, name="dead", rich_help_panel="Operations")


def purge(
    queue: Annotated[str, typer.Argument(help="campaigns, email, default, heartbeats or dead.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Drop what waits in a queue. The mail is still sent: the ledger tells what the messages would have told."""
    import asyncio

    from cli import queues
    from cli.local.control import noted
    from cli.output import confirm, say, show_json
    from cli.settings import LocalSettings
    from shared import settings
    from shared.errors import DataError

    config = settings.load(LocalSettings)
    known = {depth.name: depth for depth in asyncio.run(queues.depths(config.broker_admin_url))}
    if queue not in known or not known[queue].exists:
        raise DataError(f"there is no queue {queue!r}. There are: {', '.join(known)}")
    confirm(f"Drop {known[queue].messages} messages of {queue}? The mail is still sent.", yes)
    with noted(config, f"purge {queue}") as result:
        dropped = asyncio.run(queues.purge(config.broker_admin_url, queue))
        result.text = f"dropped {dropped} messages"
    if as_json:
        show_json({"queue": queue, "dropped": dropped})
    else:
        say(f"dropped {dropped} messages of {queue}")


@dead.command("list")
def list_(limit: Limit = 100, as_json: Json = False) -> None:
    """List dead messages; they stay where they are."""
    import asyncio
    from dataclasses import asdict

    from cli import queues
    from cli.output import show_json, show_table
    from cli.settings import LocalSettings
    from shared import settings

    found = asyncio.run(queues.dead(settings.load(LocalSettings).broker_admin_url, limit))
    if as_json:
        show_json([asdict(message) for message in found])
        return
    show_table(
        ("Died", "Queue", "Reason", "Event", "Message"),
        [(message.died_at, message.queue, message.reason, message.event, message.body) for message in found],
    )


@dead.command()
def replay(limit: Limit = 1000, yes: Yes = False, as_json: Json = False) -> None:
    """Publish dead messages again. What has grown old meanwhile does nothing."""
    import asyncio

    from cli import queues
    from cli.local.control import noted
    from cli.output import confirm, say, show_json
    from cli.settings import LocalSettings
    from shared import settings

    config = settings.load(LocalSettings)
    confirm(f"Publish up to {limit} dead messages again?", yes)
    with noted(config, "dead replay") as result:
        count = asyncio.run(queues.replay(config.broker_admin_url, limit))
        result.text = f"published {count} messages again"
    if as_json:
        show_json({"replayed": count})
    else:
        say(f"published {count} messages again")
