"""Fixtures of every layer. Nothing starts until a test asks for it; see CONTRIBUTING.md."""

import faulthandler
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from cli.local import ports
from cli.local.broker import PrivateBroker
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared.ledger.database import Ledger
from tests.support.broker import BrokerVhost, new_vhost
from tests.support.databases import (
    empty_postgres,
    empty_sqlite,
    migrated_postgres,
    migrated_sqlite,
    through_pgbouncer,
)
from tests.support.fork_server import ForkServer
from tests.support.loops import cancel_tasks_of_tasks
from tests.support.processes import ServiceProcess, tail
from tests.support.relay import RecordingRelay
from tests.support.run import TestRun
from tests.support.system import System, installation

UNIT_TESTS = Path(__file__).parent / "unit"
DATABASES = ("sqlite", "postgresql")
POOLED = ("test_ledger_", "test_api_", "test_dispatcher_", "test_sender_", "test_watchdog_", "test_wakeups")
"""Beginnings of the names of modules whose tests `make test-more` repeats through pgbouncer."""
TEARDOWN_SECONDS = 300
"""A worker whose test takes longer to clean up ends, and the test has failed."""

run_key = pytest.StashKey[TestRun]()


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[run_key] = TestRun(Path(worker["run_folder"]))
        workers = int(worker["workercount"])
        ports.share = (int(worker["workerid"].removeprefix("gw")) % workers, workers)
    elif not config.option.collectonly:
        config.stash[run_key] = TestRun.new()
        # CI sends SIGTERM at its time limit; the run must stop its servers then as well.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ServiceProcess.fork_server = ForkServer()
    cancel_tasks_of_tasks()
    # Slow is no finding: the machine may be busy.
    slow = hypothesis.HealthCheck.too_slow
    patient = hypothesis.settings(deadline=None, suppress_health_check=[slow])
    hypothesis.settings.register_profile("patient", patient)
    hypothesis.settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist calls this for each new worker."""
    node.workerinput["run_folder"] = str(node.config.stash[run_key].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Runs after the last test, a failure or Ctrl-C, when the workers have ended."""
    if ServiceProcess.fork_server is not None:
        ServiceProcess.fork_server.stop()
    run = config.stash.get(run_key, None)
    if run is not None and not hasattr(config, "workerinput"):
        run.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """After a test's `timeout` nothing else would end a teardown that waits for a thread for ever."""
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=sys.__stderr__ or 2)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the ends of what services logged in a test that failed."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call" and report.failed and folder is not None:
        for log in sorted(folder.glob("*.log")):
            report.sections.append((f"Log of {log.stem}", tail(log.read_text(errors="replace"))))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Through pgbouncer run only the tests of the ledger and the services."""
    others = [item for item in items if "pgbouncer" in item.name and not item.path.name.startswith(POOLED)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> TestRun:
    """This test run and its shared servers."""
    return pytestconfig.stash[run_key]


@pytest.fixture
def broker(run: TestRun, request: pytest.FixtureRequest) -> PrivateBroker:
    """The RabbitMQ node that all tests share. Leave it running; to break one, use `own_broker`."""
    _refuse_in_unit_tests(request)
    return run.broker()


@pytest.fixture
def broker_vhost(broker: PrivateBroker) -> Iterator[BrokerVhost]:
    """A new, empty virtual host for this test, with the rights of production."""
    with new_vhost(broker) as vhost:
        yield vhost


@pytest.fixture
def own_broker(run: TestRun, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PrivateBroker]:
    """A ready RabbitMQ node for this test alone, to kill and restart. Takes 6 s."""
    _refuse_in_unit_tests(request)
    broker = run.new_broker(f"broker-{tmp_path.name}-{free_port()}")
    broker.start()
    broker.wait_ready()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def postgres(run: TestRun, request: pytest.FixtureRequest) -> PrivatePostgres:
    """The PostgreSQL cluster that all tests share. Leave it running; to break one, use `own_postgres`."""
    _refuse_in_unit_tests(request)
    return run.postgres()


@pytest.fixture
def own_postgres(run: TestRun, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PrivatePostgres]:
    """A ready PostgreSQL cluster for this test alone, to kill and restart."""
    _refuse_in_unit_tests(request)
    postgres = run.new_postgres(f"postgres-{tmp_path.name}-{free_port()}")
    postgres.start()
    postgres.wait_ready()
    try:
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture(params=[*DATABASES, pytest.param("pgbouncer", marks=pytest.mark.more)])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty ledger with the newest schema. The test runs once on SQLite and once on PostgreSQL, and `make test-more`
    runs those of the ledger and the services through pgbouncer, too."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest, run: TestRun, tmp_path: Path) -> Iterator[str]:
    """A database without tables, for tests of migrations. The test runs on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        _refuse_in_unit_tests(request)
    with empty_postgres(run) if request.param == "postgresql" else empty_sqlite(tmp_path) as url:
        yield url


@pytest.fixture
def sqlite_url(run: TestRun, tmp_path: Path) -> Iterator[str]:
    """An empty ledger with the newest schema, on SQLite."""
    with migrated_sqlite(run, tmp_path) as url:
        yield url


@pytest.fixture
def postgresql_url(run: TestRun, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty ledger with the newest schema, on PostgreSQL."""
    _refuse_in_unit_tests(request)
    with migrated_postgres(run) as url:
        yield url


@pytest.fixture
def pgbouncer_url(run: TestRun, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty ledger with the newest schema, on PostgreSQL behind pgbouncer in transaction mode."""
    _refuse_in_unit_tests(request)
    with through_pgbouncer(run) as url:
        yield url


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    """`database_url`, opened."""
    ledger = Ledger(database_url, pool_size=6)
    yield ledger
    await ledger.close()


@pytest.fixture
def relay() -> Iterator[RecordingRelay]:
    """A relay that records who received what."""
    relay = RecordingRelay()
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
async def system(
    tmp_path: Path, database_url: str, broker_vhost: BrokerVhost, relay: RecordingRelay
) -> AsyncIterator[System]:
    """An installation whose services a test starts; all are killed at the end. A module may change its settings."""
    vhost = broker_vhost
    async with installation(tmp_path, database_url, vhost.admin_url, vhost.services_url, relay) as system:
        yield system


ServiceFactory = Callable[..., ServiceProcess]


@pytest.fixture
def service_process(tmp_path: Path) -> Iterator[ServiceFactory]:
    """`service_process("sender", settings, name="sender-1")` launches a service, killed at the end if it still runs."""
    with ExitStack() as launched:

        def launch(service: str, settings: Mapping[str, str], *, name: str = "", http_port: int = 0) -> ServiceProcess:
            process = ServiceProcess(service, settings, http_port or free_port(), tmp_path, name)
            launched.callback(process.kill)
            process.launch()
            return process

        yield launch


def _refuse_in_unit_tests(request: pytest.FixtureRequest) -> None:
    if UNIT_TESTS in request.path.parents:
        pytest.fail("a unit test may not use a server; move it to tests/integration", pytrace=False)
