"""The servers of one experiment: a new virtual host and a new ledger, on a broker and a cluster that may break."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cli.local.broker import PrivateBroker
from cli.local.postgres import PrivatePostgres
from shared.ledger import migrate
from tests.chaos.world import Servers
from tests.support.broker import new_vhost
from tests.support.broker_cluster import BrokerCluster, ClusterNode
from tests.support.databases import sqlite_url
from tests.support.run import TestRun
from tests.support.standby import Pair


@contextmanager
def servers(
    folder: Path, broker: PrivateBroker, postgres: PrivatePostgres | None, pair: Pair | None = None
) -> Iterator[Servers]:
    """New and empty, removed afterwards. The ledger is on SQLite if `postgres` is None, and on the pair if there is
    one."""
    with new_vhost(broker) as vhost, _ledger(folder, postgres, pair) as url:
        migrate.upgrade(url)
        cluster = broker.cluster if isinstance(broker, ClusterNode) else None
        yield Servers(folder, url, broker, vhost, pair.primary if pair is not None else postgres, cluster, pair)


@contextmanager
def running_cluster(run: TestRun) -> Iterator[BrokerCluster]:
    """Three brokers, stopped at the end. They start in 20 s."""
    cluster = run.new_cluster(f"cluster-{uuid4().hex[:6]}")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def _ledger(folder: Path, postgres: PrivatePostgres | None, pair: Pair | None) -> Iterator[str]:
    name = f"chaos_{uuid4().hex[:12]}"
    if pair is not None:
        pair.primary.create_database(name)
        yield pair.url(name)  # which ends with the pair
        return
    if postgres is None:
        yield sqlite_url(folder / "ledger.db")
        return
    try:
        yield postgres.create_database(name)
    finally:
        postgres.drop_database(name)
