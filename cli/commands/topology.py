"""`vashsender topology`: exchanges, queues and bindings."""

import typer

from cli.options import Json

app = typer.Typer(help="Exchanges, queues and bindings on the broker.", no_args_is_help=True)


@app.command()
def declare() -> None:
    """Declare everything. Safe to repeat. Needs an account that may configure: VASHSENDER_AMQP_ADMIN_URL."""
    import asyncio

    from cli import access
    from cli.output import say
    from cli.settings import local_settings
    from shared import topology

    asyncio.run(access.declare(local_settings().broker_admin_url))
    say(f"declared: {', '.join(queue.name for queue in topology.QUEUES)}, {topology.DEAD}")


@app.command()
def check(as_json: Json = False) -> None:
    """Check that every queue and exchange exists. Exits with 78 if one is missing."""
    import asyncio

    from cli import access
    from cli.output import say, show_json
    from cli.settings import local_settings
    from shared.errors import ConfigurationError

    missing = asyncio.run(access.missing_topology(local_settings().broker_admin_url))
    if as_json:
        show_json({"missing": missing, "ok": not missing})
    if missing:
        raise ConfigurationError(f"missing: {', '.join(missing)}. Run `vashsender topology declare`.")
    if not as_json:
        say("every queue and exchange exists")
