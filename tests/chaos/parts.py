"""The servers of one experiment: a virtual host and a ledger of its own, on a broker and a cluster that may break."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.local.broker import PrivateBroker
from cli.local.postgres import PrivatePostgres
from tests.chaos.catalogue import POSTGRESQL
from tests.chaos.world import Parts
from tests.support.broker import new_vhost
from tests.support.databases import migrated_postgres, migrated_sqlite
from tests.support.run import TestRun


@contextmanager
def parts(
    run: TestRun, folder: Path, ledger: str, broker: PrivateBroker, postgres: PrivatePostgres | None = None
) -> Iterator[Parts]:
    """Everything fresh and empty, gone afterwards."""
    with new_vhost(broker) as vhost:
        if ledger == POSTGRESQL:
            with migrated_postgres(run) as url:
                yield Parts(folder, url, broker, vhost, run.postgres())
        else:
            with migrated_sqlite(run, folder) as url:
                yield Parts(folder, url, broker, vhost, None)
