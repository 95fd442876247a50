"""The installation that a fault breaks: its processes, its servers, and an independent view of the ledger."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from cli.local.broker import PrivateBroker
from cli.local.postgres import PrivatePostgres
from shared.ledger.database import Ledger, is_unavailable
from tests.chaos import subscribers
from tests.chaos.catalogue import Fault
from tests.chaos.subscribers import Subscribers
from tests.support.broker import BrokerVhost
from tests.support.broker_cluster import BrokerCluster
from tests.support.processes import ServiceProcess
from tests.support.proxy import Proxy, with_port
from tests.support.relay import RecordingRelay
from tests.support.standby import Pair
from tests.support.system import System, installation

SENDERS = ("sender-1", "sender-2")
CONNECTIONS = 8  # SMTP connections of each sender
UNRECORDED_LIMIT = 64  # unrecorded results at which a sender starts no further email
SECONDS_PER_EMAIL = 0.08
EMAILS_PER_SECOND = len(SENDERS) * CONNECTIONS / SECONDS_PER_EMAIL
POLL_SECONDS = 0.05
TIMEOUT_SECONDS = 90.0
UNREACHABLE = (httpx.HTTPError, OSError)

T = TypeVar("T")


@dataclass(frozen=True)
class Conditions:
    """What all experiments of a run share."""

    ledger: str
    seed: int
    lease_seconds: float = 15.0

    @property
    def settings(self) -> dict[str, str]:
        return {
            "lease_seconds": f"{self.lease_seconds:g}",
            "renew_seconds": f"{self.lease_seconds / 5:g}",
            "smtp_connections": str(CONNECTIONS),
            "unrecorded_limit": str(UNRECORDED_LIMIT),
            "batch_size": "100",
        }


@dataclass(frozen=True)
class Servers:
    """The servers an experiment may break. `postgres` is None if the ledger is on SQLite."""

    folder: Path
    database_url: str
    broker: PrivateBroker
    vhost: BrokerVhost
    postgres: PrivatePostgres | None
    #: The cluster to which `broker` belongs, for faults of clusters.
    cluster: BrokerCluster | None = None
    #: The primary, which is `postgres`, and its synchronous standby, if the fault has one.
    pair: Pair | None = None


@dataclass(frozen=True)
class QuietPeriod:
    """No first body byte may reach the relay between these moments (`time.monotonic()`), the first second excepted."""

    answered_at: float
    until: float


@dataclass
class World:
    """The running installation that a fault breaks, and what the experiment has recorded so far."""

    fault: Fault
    conditions: Conditions
    servers: Servers
    system: System
    relay: RecordingRelay
    #: The ledger, reached without a proxy.
    observer: Ledger
    proxies: Mapping[str, Proxy]
    #: Seeded by the fault's name and the seed of the run.
    random: random.Random
    #: Programs that are told what happens, if the fault has them.
    subscribers: Subscribers | None = None
    #: Ids; the first is the campaign that runs while the fault happens.
    campaigns: list[str] = field(default_factory=list)
    #: Recipients of that campaign.
    recipients: int = 0
    #: Duplicates that docs/guarantees.md permits for what was broken so far.
    allowed_duplicates: int = 0
    quiet_periods: list[QuietPeriod] = field(default_factory=list)
    #: For each batch of a killed sender: seconds until it was claimed again, and the promised seconds.
    reclaimed_seconds: list[tuple[float, float]] = field(default_factory=list)
    #: Recipients that the relay refused permanently.
    refused: set[str] = field(default_factory=set)
    #: Recipients whose email the relay may have accepted without its reply arriving.
    ambiguous: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    #: When everything was repaired (`time.monotonic()`).
    fault_ended_at: float = 0.0
    #: When `deliver_by` passes (`time.monotonic()`), if the fault sets one.
    deadline: float = 0.0
    #: The faults of a random schedule, for the report.
    schedule: str = ""
    #: Steps to take before the outcome is judged.
    before_judging: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def campaign(self) -> str:
        return self.campaigns[0]

    @property
    def processes(self) -> dict[str, ServiceProcess]:
        return self.system.processes

    async def at_full_speed(self) -> None:
        """Has as many emails as possible in flight: the worst moment to die. Only some hundred go out, so that enough
        are left for the recovery, however fast the machine is."""
        self.relay.behaviour.seconds_per_email = 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.4):
                await self.wait_received(self.random.randint(100, 600))

    def fault_ended(self) -> None:
        """Marks the moment from which recovery is measured."""
        self.fault_ended_at = time.monotonic()

    async def random_pause(self, least: float = 0.0, most: float = 1.0) -> None:
        await asyncio.sleep(self.random.uniform(least, most))

    async def call_action(self, action: str, body: object = None, campaign: str = "") -> tuple[float, int]:
        """POSTs an action until the api answers. Returns when it answered (`time.monotonic()`) and the status code."""
        path = f"/campaigns/{campaign or self.campaign}/{action}"
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                try:
                    async with self.system.client() as client:
                        response = await client.post(path, json=body or {})
                    if response.status_code < 500:
                        return time.monotonic(), response.status_code
                except UNREACHABLE:
                    pass
                await asyncio.sleep(POLL_SECONDS)

    async def query(self, statement: Callable[[], Awaitable[T]]) -> T:
        """Runs a query on the ledger, and repeats it while the ledger is unavailable."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                try:
                    return await statement()
                except Exception as error:
                    if not is_unavailable(error):
                        raise
                    await asyncio.sleep(POLL_SECONDS)

    async def health(self, name: str) -> Mapping[str, str]:
        """The checks in a process's /health/ready."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            answer: Mapping[str, str] = (await client.get(f"{self.processes[name].http_url}/health/ready")).json()[
                "checks"
            ]
        return answer

    async def expect_metric(self, name: str, sample: str, holds: Callable[[float], bool]) -> None:
        """Adds a problem unless the sample in a process's /metrics meets the condition."""
        value = await self.processes[name].metric(sample)
        if not holds(value):
            self.problems.append(f"{name} says {sample} {value:g}")

    def received_between(self, begin: float, end: float) -> int:
        """The number of emails the relay kept between two moments (`time.monotonic()`)."""
        count = 0
        for email in reversed(self.relay.received):
            if email.kept_at < begin:
                break
            count += email.kept_at < end
        return count

    async def wait_received(self, emails: int) -> None:
        wanted = len(self.relay.received) + emails
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(self.relay.received) < wanted:  # noqa: ASYNC110 - the relay is in another thread
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def running_world(fault: Fault, conditions: Conditions, servers: Servers) -> AsyncIterator[World]:
    """Starts the installation. Nothing is sent yet."""
    settings = {**conditions.settings, **fault.settings}
    async with AsyncExitStack() as stack:
        relay = RecordingRelay()
        relay.start()
        stack.callback(relay.stop)
        relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
        system = await stack.enter_async_context(
            installation(
                servers.folder,
                servers.database_url,
                servers.vhost.admin_url,
                servers.vhost.services_url,
                relay,
                **settings,
            )
        )
        proxies = {link: proxy for link in fault.links if (proxy := _proxy(stack, servers, relay, link)) is not None}
        observer = Ledger(servers.database_url, pool_size=2, application="observer")
        stack.push_async_callback(observer.close)
        clock = _clock(servers.folder)
        for service in ("api", "dispatcher", "watchdog"):
            system.launch(service, environment=clock if service == fault.clock_of else None)
            if fault.two_of_each and service != "api":
                system.launch(service, f"{service}-2")
        for sender in SENDERS:
            system.launch(
                "sender",
                sender,
                environment=clock if sender == fault.clock_of else None,
                **(_through(proxies, system, relay) if sender == SENDERS[0] else {}),
            )
        await asyncio.gather(*(process.wait_ready() for process in system.processes.values()))
        listening = None
        if fault.subscribed:
            listening = await stack.enter_async_context(subscribers.listening(system, servers.vhost))
        yield World(
            fault,
            conditions,
            servers,
            system,
            relay,
            observer,
            proxies,
            random.Random(f"{fault.name} {conditions.seed}"),
            listening,
        )


def _proxy(stack: AsyncExitStack, servers: Servers, relay: RecordingRelay, link: str) -> Proxy | None:
    """A started proxy in front of a server. None for the database if the ledger is on SQLite."""
    database = servers.postgres.port if servers.postgres is not None else None
    port = {"broker": servers.broker.amqp_port, "relay": relay.port, "database": database}[link]
    if port is None:
        return None
    proxy = Proxy(port)
    proxy.start()
    stack.callback(proxy.stop)
    return proxy


def _through(proxies: Mapping[str, Proxy], system: System, relay: RecordingRelay) -> dict[str, str]:
    """The settings of a sender that uses these proxies."""
    direct = {
        "broker": ("amqp_url", system.services_url),
        "database": ("database_url", system.database_url),
        "relay": ("relays", relay.url),
    }
    return {direct[link][0]: with_port(direct[link][1], proxy.port) for link, proxy in proxies.items()}


CLOCK_FILE = "clock"


def _clock(folder: Path) -> dict[str, str]:
    """The environment of a process whose wall clock follows a file; its monotonic clock stays true."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    (folder / CLOCK_FILE).write_text("+0")
    return {
        "LD_PRELOAD": str(library or ""),
        "FAKETIME_TIMESTAMP_FILE": str(folder / CLOCK_FILE),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def any_of(world: World, names: Sequence[str]) -> str:
    return world.random.choice(list(names))
