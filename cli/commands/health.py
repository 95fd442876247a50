"""`vashsender health-check` and `vashsender doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from cli.health import Hanging
    from shared.deliverability.check import Finding

UNHEALTHY = 1


def add_to(app: typer.Typer) -> None:
    app.command("health-check", rich_help_panel="Operations")(health_check)
    checks = typer.Typer(invoke_without_command=True, help=doctor.__doc__)
    checks.callback()(doctor)
    checks.command()(domain)
    checks.command()(probe)
    app.add_typer(checks, name="doctor", rich_help_panel="Operations")


def health_check(
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="MINUTES", help="Time without progress after which a campaign counts as hung."),
    ] = 30.0,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired without the services.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is wrong and which campaigns hang. Exits with 0 if healthy, 1 if unhealthy, 69 if it cannot tell."""
    import asyncio
    from dataclasses import asdict

    from cli import health
    from cli.local.control import noted
    from cli.output import say, show_json, show_table
    from cli.settings import local_settings

    config = local_settings()
    found = asyncio.run(health.look(config, timeout_minutes=timeout))
    hung: Sequence[Hanging] = ()
    fixed = []
    if fix:
        hung = found.hanging
        with noted(config, "health-check --fix") as result:
            fixed = health.fix()
            result.text = (
                "; ".join(f"{entry['text']} (campaign {entry['campaign_id']})" for entry in fixed) or "nothing"
            )
        found = asyncio.run(health.look(config, timeout_minutes=timeout))
    if as_json:
        show_json(
            {"healthy": found.is_good, **asdict(found), "hung": [asdict(each) for each in hung], "fixed": fixed},
        )
        raise typer.Exit(0 if found.is_good else UNHEALTHY)
    if hung:
        show_table(("Hung", "Name", "Status", "Idle for", "Why"), [_row(each) for each in hung])
    for entry in fixed:
        say(f"{entry['kind']}: {entry['text']} (campaign {entry['campaign_id']})")
    if found.findings:
        show_table(("What is wrong", "What to do"), [(each.what, each.advice) for each in found.findings])
    if found.hanging:
        columns = ("Hangs", "Name", "Status", "Idle for", "Why", "--fix would")
        show_table(columns, [(*_row(each), each.fix) for each in found.hanging])
    say("healthy" if found.is_good else "unhealthy")
    raise typer.Exit(0 if found.is_good else UNHEALTHY)


def _row(hanging: Hanging) -> tuple[object, ...]:
    from cli.output import duration

    return (
        hanging.campaign_id,
        hanging.name,
        hanging.status,
        duration(hanging.idle_seconds),
        hanging.reason,
    )


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check broker, topology, database, schema, disk, clock, file permissions, ports and relays, with advice."""
    if context.invoked_subcommand is not None:
        return
    import asyncio
    from dataclasses import asdict

    from cli.doctor import examine
    from cli.output import say, show_list
    from cli.settings import local_settings

    examined = asyncio.run(examine(local_settings()))
    well = all(each.ok for each in examined)
    show_list(
        [asdict(each) for each in examined],
        ("What", "", "Found", "Advice"),
        [(each.name, "ok" if each.ok else "NO", each.found, "" if each.ok else each.advice) for each in examined],
        as_json,
    )
    if not as_json:
        say("all is well" if well else "something needs attention")
    raise typer.Exit(0 if well else UNHEALTHY)


def domain(
    name: Annotated[str, typer.Argument(metavar="DOMAIN", help="Domain of the From addresses, such as example.com.")],
    envelope: Annotated[
        str, typer.Option(metavar="DOMAIN", help="Domain of the envelope sender. Default: its bounce domain.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a domain as receivers do: DMARC, DKIM, SPF, bounces, and the unsubscribe link. Asks DNS."""
    import asyncio

    from cli.domain_check import examine
    from cli.settings import local_settings

    _show(asyncio.run(examine(local_settings(), name, envelope)), as_json)


def probe(
    address: Annotated[str, typer.Argument(help="Where to send it: any address at a bounce domain, or a mailbox.")],
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Address in From. Default: at the domain it bounces for.")
    ] = "",
    relay: Annotated[str, typer.Option(metavar="NAME", help="The relay. Default: the first.")] = "",
    wait: Annotated[
        float, typer.Option(min=0, max=3600, metavar="SECONDS", help="How long it may be on its way.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Send one email through a relay, and judge what arrives: outside address, HELO, PTR, SPF, DKIM and DMARC."""
    import asyncio

    from cli.local.control import noted
    from cli.mail_probe import Wanted
    from cli.mail_probe import probe as send
    from cli.settings import local_settings

    config = local_settings()
    with noted(config, "doctor probe") as result:
        findings = asyncio.run(send(config, Wanted(address, sender, relay, wait)))
        result.text = ", ".join(f"{finding.name}: {finding.verdict.value}" for finding in findings)
    _show(findings, as_json)


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    """Exits with 1 if anything is wrong."""
    from dataclasses import asdict

    from cli.output import say, show_list
    from shared.deliverability.check import Verdict

    well = all(finding.verdict is not Verdict.WRONG for finding in findings)
    marks = {Verdict.OK: "ok", Verdict.WRONG: "NO", Verdict.UNKNOWN: "?"}
    show_list(
        [asdict(finding) for finding in findings],
        ("What", "", "Found", "Advice"),
        [(finding.name, marks[finding.verdict], finding.found, finding.advice) for finding in findings],
        as_json,
    )
    if not as_json:
        say("nothing is wrong" if well else "something needs attention")
    raise typer.Exit(0 if well else UNHEALTHY)
