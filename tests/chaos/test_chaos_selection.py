"""A selection of `make chaos` that runs with the tests: each kind of promise once, with a fixed seed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.catalogue import POSTGRESQL, SQLITE, load
from tests.chaos.experiment import run_experiment
from tests.chaos.servers import running_cluster, servers
from tests.chaos.world import Conditions
from tests.support.broker_cluster import BrokerCluster
from tests.support.run import TestRun

SEED = 1
SHORT_LEASE_SECONDS = 3.0  # for faults that outlast the lease
BREAKS = {"kill-broker": "broker", "kill-postgresql": "postgres"}
"""Faults that break a server which tests share: these get a private server."""

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def broker_cluster(run: TestRun) -> Iterator[BrokerCluster]:
    """Each fault leaves it whole, so they share it."""
    with running_cluster(run) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("name", "ledger"),
    [
        ("kill-sender", POSTGRESQL),
        ("kill-broker", SQLITE),
        ("kill-postgresql", POSTGRESQL),
        ("die-after-dot", SQLITE),
        ("freeze-sender", POSTGRESQL),
        ("pause-and-resume", SQLITE),
        ("kill-feedback", POSTGRESQL),
        ("kill-feedback", SQLITE),
        ("stop-broker-leader", SQLITE),
        ("cut-broker-leader", POSTGRESQL),
        ("kill-webhooks", SQLITE),
        ("kill-one-of-two-webhooks", POSTGRESQL),
        ("kill-all-that-write-and-tell-events", POSTGRESQL),
    ],
)
def test_promises_hold_under_a_fault(name: str, ledger: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def server(kind: str) -> str:
        return f"own_{kind}" if BREAKS.get(name) == kind else kind

    fault = load()[name]
    cluster: BrokerCluster | None = request.getfixturevalue("broker_cluster") if fault.cluster else None
    broker = cluster.nodes[0] if cluster is not None else request.getfixturevalue(server("broker"))
    postgres = request.getfixturevalue(server("postgres")) if ledger == POSTGRESQL else None
    conditions = Conditions(ledger, SEED, SHORT_LEASE_SECONDS) if fault.outlasts_lease else Conditions(ledger, SEED)
    with servers(tmp_path, broker, postgres) as broken:
        outcome = asyncio.run(run_experiment(fault, conditions, broken))
    assert not outcome.problems, f"{report.line(outcome)}\n" + "\n".join((*outcome.problems, *outcome.notes))
