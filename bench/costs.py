"""The cost of each part of a 10 KB email: microseconds of the sender's CPU to render, encode, sign, send and record it.

Each round measures all parts; the median round counts. Prints a table, writes JSON to var/bench/costs.json.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import record, render
from bench.campaign import ledger_url
from bench.reports import write_report
from bench.tables import show_table
from shared.dkim_keys import new_key
from shared.email_tokens import TokenMaker
from shared.ledger import migrate
from shared.messages.dkim import load_signers
from shared.messages.message import CampaignHeaders, MessageBuilder
from shared.templates import compile_content
from shared.unsubscribe import make_token
from tests.support.smtp.sink import smtp_sink

KILOBYTES = 10
CONNECTIONS = 8
EMAILS = 10_000
GROUP = 64
RESULTS = 4_000
CALL_SECONDS = 0.2
MOST, AIM = 250.0, 150.0
MOST_FOR_TOKENS = 5.0
LEAST_OF_OPENSSL = 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    measured = measure(parser.parse_args().rounds)
    show(Console(), measured)
    write_report("costs", **measured)


def measure(rounds: int) -> dict[str, float]:
    """Microseconds by part, and how much of `openssl speed` signing reaches."""
    html, text = render.sources("latin", KILOBYTES * 1024)
    content = compile_content(render.SUBJECT, html, text)
    parts = [part for part in (content.subject, content.html, content.text) if part is not None]
    headers = CampaignHeaders(
        render.CAMPAIGN, "news@example.com", "Spring News", "reply@example.com", "", "news.example.com"
    )
    builder = MessageBuilder(content, headers)
    email = (17, render.EMAIL, render.DATA, render.DATE, render.URL)
    tokens = TokenMaker(render.SECRET, render.CAMPAIGN)
    values = {**render.DATA, "email": render.EMAIL, "unsubscribe_url": render.URL}
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="vashsender-bench-") as name, smtp_sink() as port:
        folder = Path(name)
        new_key(folder, "example.com", "s1")
        signer = load_signers(folder)["example.com"]
        unsigned = builder.build_unsigned(*email)
        with ledger_url("postgresql", folder) as postgres_url:
            ledgers = {"SQLite": f"sqlite+aiosqlite:///{folder}/ledger.db", "PostgreSQL": postgres_url}
            for url in ledgers.values():
                migrate.upgrade(url)
            for _ in range(rounds):
                once = {
                    "render": render.microseconds(lambda: [part.pieces(values) for part in parts], CALL_SECONDS),
                    "render and encode": render.microseconds(lambda: builder.build(*email), CALL_SECONDS),
                    "sign": render.microseconds(lambda: signer.sign(unsigned), CALL_SECONDS),
                    "tokens": render.microseconds(lambda: tokens.make(17), CALL_SECONDS),
                    "link of release 0.1.0": render.microseconds(
                        lambda: make_token(render.SECRET, render.CAMPAIGN, 17), CALL_SECONDS
                    ),
                    "share of openssl": render.signing_share(signer, unsigned),
                    "send": _send(port),
                }
                for ledger, url in ledgers.items():
                    once[f"record, {ledger}"] = asyncio.run(record.measure(url, GROUP, RESULTS))[1]
                for part, cost in once.items():
                    took.setdefault(part, []).append(cost)
    medians = {part: statistics.median(costs) for part, costs in took.items()}
    medians["encode"] = medians["render and encode"] - medians["render"]
    return medians


def _send(port: int) -> float:
    flags = {"port": port, "emails": EMAILS, "connections": CONNECTIONS, "kilobytes": KILOBYTES}
    words = [f"--{name}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "bench.smtp_clients", "engine", *words]
    took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return float(took["cpu_seconds"]) / EMAILS * 1e6


def show(console: Console, cost: Mapping[str, float]) -> None:
    table = Table(title=f"Microseconds of the sender's CPU per {KILOBYTES} KB email")
    headings = ("ledger", "render", "encode", "send", f"record, {GROUP} at once", "sum", "DKIM, in a thread")
    for heading in headings:
        table.add_column(heading, justify="right")
    sums = []
    for ledger in ("SQLite", "PostgreSQL"):
        parts = [cost[part] for part in ("render", "encode", "send", f"record, {ledger}")]
        sums.append(sum(parts))
        table.add_row(ledger, *(f"{figure:.0f}" for figure in (*parts, sums[-1], cost["sign"])))
    show_table(table, console)
    console.print(
        f"{min(sums):.0f} to {max(sums):.0f} us with the ledger row; at most {MOST:.0f}, aim {AIM:.0f}: "
        f"{'aim reached' if max(sums) <= AIM else 'reached' if max(sums) <= MOST else 'NOT reached'}"
    )
    added = cost["tokens"] - cost["link of release 0.1.0"]
    console.print(
        f"Tokens of the link, Message-ID, MAIL FROM and mailto: {cost['tokens']:.1f} us, {added:.1f} more than the link"
        f" alone; at most {MOST_FOR_TOKENS:.0f} more: {'reached' if added <= MOST_FOR_TOKENS else 'NOT reached'}"
    )
    share = cost["share of openssl"]
    console.print(
        f"DKIM RSA-2048: {share:.0%} of openssl speed; target at least {LEAST_OF_OPENSSL:.0%}: "
        f"{'reached' if share >= LEAST_OF_OPENSSL else 'NOT reached'}"
    )


if __name__ == "__main__":
    main()
