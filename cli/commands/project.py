"""`vashsender project`: who owns campaigns, keys, domains and limits. Uses the database, not the API."""

from typing import Annotated

import typer

from cli.options import Json, Yes

app = typer.Typer(help="Projects: each has its own campaigns, keys, domains and limits.", no_args_is_help=True)

MOST = 2**31 - 1
Name = Annotated[str, typer.Argument(help="The project's name.")]


@app.command()
def create(name: Name) -> None:
    """Create a project."""
    import asyncio

    from cli import tenants
    from cli.output import say
    from cli.settings import local_settings

    project = asyncio.run(tenants.create_project(local_settings(), name))
    say(f"created {project.name}")
    say(f"next: `vashsender domain add DOMAIN --project {name}`, `vashsender key create NAME --project {name}`")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the projects, closed ones included."""
    import asyncio
    from dataclasses import asdict

    from cli import tenants
    from cli.output import moment, show_list
    from cli.settings import local_settings

    projects = asyncio.run(tenants.list_projects(local_settings()))
    rows = [(one.id, one.name, moment(one.created_at), moment(one.closed_at)) for one in projects]
    show_list([asdict(project) for project in projects], ("Id", "Name", "Created", "Closed"), rows, as_json)


@app.command()
def rename(name: Name, new_name: Annotated[str, typer.Argument(help="Its new name.")]) -> None:
    """Rename a project. The List-Id of its emails follows."""
    import asyncio

    from cli import tenants
    from cli.output import say
    from cli.settings import local_settings

    asyncio.run(tenants.rename_project(local_settings(), name, new_name))
    say(f"renamed {name} to {new_name}")


@app.command()
def close(name: Name, yes: Yes = False) -> None:
    """Close a project that sends nothing: its keys are refused from then on, and its data stays."""
    import asyncio

    from cli import tenants
    from cli.output import confirm, say
    from cli.settings import local_settings

    confirm(f"Close {name}? This cannot be undone.", yes)
    asyncio.run(tenants.close_project(local_settings(), name))
    say(f"closed {name}")


@app.command()
def limits(
    name: Name,
    tests_per_hour: Annotated[int | None, typer.Option(min=0, max=MOST, help="Tests in an hour.")] = None,
    open_imports: Annotated[int | None, typer.Option(min=0, max=MOST, help="Imports open at once.")] = None,
    open_streams: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="Event streams open at once on one API process.")
    ] = None,
    per_second: Annotated[float | None, typer.Option(min=0.000001, max=1_000_000, help="Emails per second.")] = None,
    per_hour: Annotated[int | None, typer.Option(min=1, max=MOST, help="Emails in one hour of UTC.")] = None,
    per_day: Annotated[int | None, typer.Option(min=1, max=MOST, help="Emails in one day of UTC.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="First remove every limit that the project has.")] = False,
    as_json: Json = False,
) -> None:
    """Show a project's limits, after changing those that are given. Empty: the setting of that name, or no limit."""
    import asyncio

    from cli import tenants
    from cli.output import show_list
    from cli.settings import local_settings

    own = {"tests_per_hour": tests_per_hour, "open_imports": open_imports, "open_streams": open_streams}
    rates = {"emails_per_second": per_second, "emails_per_hour": per_hour, "emails_per_day": per_day}
    given = [{key: value for key, value in some.items() if reset or value is not None} for some in (own, rates)]
    found = asyncio.run(tenants.project_limits(local_settings(), name, *given))
    show_list(found, ("Limit", "Value"), list(found.items()), as_json)
