"""`vashsender purge` and `vashsender dead`: messages on the broker. No message is an email."""

from typing import Annotated

import typer

from cli.options import Json, Yes

dead = typer.Typer(help="Messages that no service could handle.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Largest number of messages, oldest first.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Operations")(purge)
    app.add_typer(dead, name="dead", rich_help_panel="Operations")


def purge(
    queue: Annotated[str, typer.Argument(help="campaigns, email, default, heartbeats or dead.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Drop the messages waiting in a queue. No email is lost: the services find the work in the ledger."""
    import asyncio

    from cli import queues
    from cli.local.control import noted
    from cli.output import confirm, say, show_json
    from cli.settings import local_settings
    from shared.errors import DataError

    config = local_settings()
    known = {depth.name: depth for depth in asyncio.run(queues.depths(config.broker_admin_url))}
    if queue not in known or not known[queue].exists:
        raise DataError(f"there is no queue {queue!r}. The queues are: {', '.join(known)}")
    confirm(f"Drop {known[queue].messages} messages of {queue}? No email is lost.", yes)
    with noted(config, f"purge {queue}") as result:
        dropped = asyncio.run(queues.purge(config.broker_admin_url, queue))
        result.text = f"dropped {dropped} messages"
    if as_json:
        show_json({"queue": queue, "dropped": dropped})
    else:
        say(f"dropped {dropped} messages of {queue}")


@dead.command("list")
def list_(limit: Limit = 100, as_json: Json = False) -> None:
    """List dead messages. They stay in the queue."""
    import asyncio
    from dataclasses import asdict

    from cli import queues
    from cli.output import show_list
    from cli.settings import local_settings

    found = asyncio.run(queues.dead(local_settings().broker_admin_url, limit))
    show_list(
        [asdict(message) for message in found],
        ("Died", "Queue", "Reason", "Event", "Wrong", "Message"),
        [
            (message.died_at, message.queue, message.reason, message.event, message.why, message.body)
            for message in found
        ],
        as_json,
    )


@dead.command()
def replay(limit: Limit = 1000, yes: Yes = False, as_json: Json = False) -> None:
    """Publish dead messages again. Stale ones do nothing."""
    import asyncio

    from cli import queues
    from cli.local.control import noted
    from cli.output import confirm, say, show_json
    from cli.settings import local_settings

    config = local_settings()
    confirm(f"Publish up to {limit} dead messages again?", yes)
    with noted(config, "dead replay") as result:
        count = asyncio.run(queues.replay(config.broker_admin_url, limit))
        result.text = f"published {count} messages again"
    if as_json:
        show_json({"replayed": count})
    else:
        say(f"published {count} messages again")
