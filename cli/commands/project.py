"""`vashsender project`: who owns campaigns, keys, domains and limits. Uses the database, not the API."""

from typing import Annotated

import typer

from cli.options import Json, Yes

app = typer.Typer(help="Projects: each has its own campaigns, keys, domains and limits.", no_args_is_help=True)

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
    from cli.output import moment, show_json, show_table
    from cli.settings import local_settings

    projects = asyncio.run(tenants.list_projects(local_settings()))
    if as_json:
        show_json([asdict(project) for project in projects])
        return
    rows = [(one.id, one.name, moment(one.created_at), moment(one.closed_at)) for one in projects]
    show_table(("Id", "Name", "Created", "Closed"), rows)


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
