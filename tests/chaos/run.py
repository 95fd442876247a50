"""`make chaos`: runs every fault on every ledger, prints a table, and updates docs/guarantees.md.

    python -m tests.chaos.run --list
    python -m tests.chaos.run --faults kill-sender random-schedule --ledgers postgresql --runs 5 --seed 4711

The printed seed repeats a run: all randomness comes from it and from the name of the fault.

Long series run in pieces, each with a separate report. This makes the page from all of them:

    python -m tests.chaos.run --runs 0 --earlier piece-1.json piece-2.json --page
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from cli.local import LocalError
from cli.local.packages import ensure
from tests.chaos import report
from tests.chaos.catalogue import LEDGERS, POSTGRESQL, Fault, load
from tests.chaos.experiment import run_experiment
from tests.chaos.servers import running_cluster, servers
from tests.chaos.verdict import Outcome
from tests.chaos.world import Conditions
from tests.support.broker_cluster import BrokerCluster
from tests.support.fork_server import ForkServer
from tests.support.processes import ServiceProcess
from tests.support.run import TestRun
from tests.support.standby import new_pair

EXPERIMENT_TIMEOUT_SECONDS = 600.0
PACKAGES = ("rabbitmq-server", "postgresql", "libfaketime")


def main() -> int:
    """Exit codes: 0 every promise held, 1 a promise was broken, 64 usage, 69 a server is missing."""
    catalogue = load()
    options = _options(catalogue)
    console = Console()
    if options.list:
        for fault in catalogue.values():
            console.print(f"{fault.name:32} {'both' if len(fault.ledgers) > 1 else fault.ledgers[0]:11} {fault.title}")
        return 0
    earlier = report.read(options.earlier)
    try:
        ensure(PACKAGES)
    except LocalError as error:
        console.print(str(error))
        return error.exit_code
    faults = [catalogue[name] for name in options.faults or catalogue]
    console.print(f"seed {options.seed}, lease {options.lease:g} s, {options.runs} run(s) of {len(faults)} faults")
    outcomes = report.merged(earlier, _run_all(faults, options, console, earlier))
    console.print(report.table(catalogue, outcomes))
    report.write(outcomes, options.report)
    if options.page or (not options.faults and set(options.ledgers) == set(LEDGERS)):
        report.write_page(catalogue, outcomes)
    console.print(f"All outcomes: {options.report}. To repeat: --seed {options.seed}")
    broken = [outcome for outcome in outcomes if outcome.problems]
    for outcome in broken:
        console.print(
            f"[red]{outcome.fault} on {outcome.ledger}, seed {outcome.seed}[/red]", *outcome.problems, sep="\n  "
        )
    return 1 if broken else 0


def _run_all(
    faults: list[Fault], options: argparse.Namespace, console: Console, earlier: Sequence[Outcome]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    if not options.runs:
        return outcomes
    run = TestRun.new()
    brokers = _ThreeBrokers(run)
    ServiceProcess.fork_server = ForkServer() if options.fork else None
    try:
        for number in range(options.runs):
            for fault in faults:
                for ledger in options.ledgers:
                    if ledger in fault.ledgers:
                        conditions = Conditions(ledger, options.seed + number, options.lease)
                        outcome = _one(run, brokers, fault, conditions)
                        if outcome.problems:
                            brokers.stop()
                        console.print(
                            report.line(outcome), *outcome.problems, sep="\n    ", markup=False, highlight=False
                        )
                        outcomes.append(outcome)
                        # After each experiment, so that an interrupted run keeps its results.
                        report.write(report.merged(earlier, outcomes), options.report)
    finally:
        brokers.stop()
        run.end()
        if ServiceProcess.fork_server is not None:
            ServiceProcess.fork_server.stop()
    return outcomes


class _ThreeBrokers:
    """A cluster that experiments share, as each fault leaves it whole; started when first needed, in 20 s or more."""

    def __init__(self, run: TestRun) -> None:
        self._run = run
        self._running = ExitStack()
        self._cluster: BrokerCluster | None = None

    def get(self) -> BrokerCluster:
        if self._cluster is None:
            self._cluster = self._running.enter_context(running_cluster(self._run))
        return self._cluster

    def stop(self) -> None:
        self._cluster = None
        self._running.close()


def _one(run: TestRun, brokers: _ThreeBrokers, fault: Fault, conditions: Conditions) -> Outcome:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vashsender-chaos-")))
        postgres = run.postgres() if conditions.ledger == POSTGRESQL else None
        broker = brokers.get().nodes[0] if fault.cluster else run.broker()
        pair = stack.enter_context(new_pair(run, f"pair-{fault.name}-{conditions.seed}")) if fault.has_standby else None
        broken = stack.enter_context(servers(folder, broker, postgres, pair))
        bounded = asyncio.wait_for(run_experiment(fault, conditions, broken), EXPERIMENT_TIMEOUT_SECONDS)
        return asyncio.run(bounded)


def _options(catalogue: dict[str, Fault]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="list all faults and exit")
    parser.add_argument("--faults", nargs="+", metavar="NAME", choices=list(catalogue), help="run only these faults")
    parser.add_argument("--ledgers", nargs="+", choices=LEDGERS, default=list(LEDGERS))
    parser.add_argument("--runs", type=int, default=1, help="runs of each fault, with consecutive seeds")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="default: random; printed")
    parser.add_argument("--lease", type=float, default=Conditions.lease_seconds, help="VASHSENDER_LEASE_SECONDS")
    parser.add_argument("--fork", action="store_true", help="fork the services, which saves half of the CPU time")
    parser.add_argument("--report", type=Path, default=report.REPORT, metavar="FILE", help="where the outcomes go")
    parser.add_argument(
        "--earlier", nargs="+", type=Path, default=[], metavar="FILE", help="reports whose outcomes are added"
    )
    parser.add_argument("--page", action="store_true", help="write the table into docs/guarantees.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
