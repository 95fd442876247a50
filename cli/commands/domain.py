"""`vashsender domain`: which project may send from which domain. Uses the database, not the API."""

from typing import Annotated

import typer

from cli.options import Json, Yes

app = typer.Typer(help="Domains that projects send from.", no_args_is_help=True)

Domain = Annotated[str, typer.Argument(help="The domain, such as example.com; it includes those below it.")]


@app.command()
def add(domain: Domain, project: Annotated[str, typer.Option(help="The project that gets it.")] = "default") -> None:
    """Give a domain to a project: only that project sends from it."""
    import asyncio

    from cli import tenants
    from cli.output import say
    from cli.settings import local_settings

    added = asyncio.run(tenants.add_domain(local_settings(), domain, project))
    say(f"{added.name} belongs to {added.project}")


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only domains of this project.")] = None, as_json: Json = False
) -> None:
    """List the domains."""
    import asyncio
    from dataclasses import asdict

    from cli import tenants
    from cli.output import moment, show_list
    from cli.settings import local_settings

    domains = asyncio.run(tenants.list_domains(local_settings(), project))
    rows = [(one.name, one.project, one.bounce_domain or "", one.made_by, moment(one.created_at)) for one in domains]
    headings = ("Domain", "Project", "Bounces to", "Made by", "Since")
    show_list([asdict(domain) for domain in domains], headings, rows, as_json)


@app.command()
def bounces(
    domain: Domain,
    bounce_domain: Annotated[str, typer.Argument(help="The domain that takes its bounces; `none`: the From address.")],
) -> None:
    """Name the domain that takes bounces of a domain's mail."""
    import asyncio

    from cli import tenants
    from cli.output import say
    from cli.settings import local_settings

    wanted = None if bounce_domain == "none" else bounce_domain
    changed = asyncio.run(tenants.set_bounce_domain(local_settings(), domain, wanted))
    say(f"bounces of {changed.name} go to {changed.bounce_domain or 'the address in From'}")


@app.command()
def remove(domain: Domain, yes: Yes = False) -> None:
    """Take a domain from its project. Campaigns that are being sent go on."""
    import asyncio

    from cli import tenants
    from cli.output import confirm, say
    from cli.settings import local_settings

    confirm(f"Take {domain} from its project?", yes)
    asyncio.run(tenants.remove_domain(local_settings(), domain))
    say(f"removed {domain}")
