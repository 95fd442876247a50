"""One installation that is about to be broken: its processes, its servers, and an observer's own eyes on the ledger."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from cli.local.broker import PrivateBroker
from cli.local.postgres import PrivatePostgres
from shared.ledger.database import Ledger, is_unavailable
from tests.chaos.catalogue import Fault
from tests.support.broker import BrokerVhost
from tests.support.processes import ServiceProcess
from tests.support.proxy import Proxy, with_port
from tests.support.relay import RecordingRelay
from tests.support.system import System, installation

SENDERS = ("sender-1", "sender-2")
CONNECTIONS = 8  # SMTP connections of each sender
UNRECORDED = 64  # results a sender may hold before it starts no further email
SECONDS_PER_EMAIL = 0.08
EMAILS_PER_SECOND = len(SENDERS) * CONNECTIONS / SECONDS_PER_EMAIL
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 90.0
UNREACHABLE = (httpx.HTTPError, OSError)

T = TypeVar("T")


@dataclass(frozen=True)
class Conditions:
    """What stays the same within a run of experiments."""

    ledger: str
    seed: int
    lease_seconds: float = 15.0

    @property
    def settings(self) -> dict[str, str]:
        return {
            "lease_seconds": f"{self.lease_seconds:g}",
            "renew_seconds": f"{self.lease_seconds / 5:g}",
            "smtp_connections": str(CONNECTIONS),
            "unrecorded_limit": str(UNRECORDED),
            "batch_size": "100",
        }


@dataclass(frozen=True)
class Parts:
    """The servers an experiment may break. `postgres` is None where the ledger is SQLite."""

    folder: Path
    database_url: str
    broker: PrivateBroker
    vhost: BrokerVhost
    postgres: PrivatePostgres | None


@dataclass(frozen=True)
class Quiet:
    """No first body byte may come to the relay between these two moments (`time.monotonic()`), a second's grace
    included in neither."""

    answered_at: float
    until: float


@dataclass
class World:
    """What a fault works on. `bound` counts the duplicates that DESIGN.md allows for what was done; `again_seconds`
    tells how long each batch of a killed sender was in nobody's hands."""

    fault: Fault
    conditions: Conditions
    parts: Parts
    system: System
    relay: RecordingRelay
    eyes: Ledger
    proxies: Mapping[str, Proxy]
    chance: random.Random
    campaigns: list[str] = field(default_factory=list)
    recipients: int = 0  # of the campaign
    bound: int = 0
    quiet: list[Quiet] = field(default_factory=list)
    again_seconds: list[tuple[float, float]] = field(default_factory=list)  # (seconds, promised)
    refused: set[str] = field(default_factory=set)  # recipients the relay has refused for good
    in_doubt: set[str] = field(default_factory=set)  # recipients whose email may have been taken without an answer
    problems: list[str] = field(default_factory=list)
    over_at: float = 0.0
    deadline: float = 0.0  # when deliver_by passes, where the fault wants one (`time.monotonic()`)
    schedule: str = ""  # the faults of a random schedule, for whoever reads the outcome
    before_verdict: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def campaign(self) -> str:
        return self.campaigns[0]

    @property
    def processes(self) -> dict[str, ServiceProcess]:
        return self.system.processes

    async def at_full_speed(self) -> None:
        """As many emails as possible are under way: the worst moment to die."""
        self.relay.behaviour.seconds_per_email = 0.0
        await self.a_moment(0.1, 0.4)

    def over(self) -> None:
        """Nothing is broken any more: from now on recovery counts."""
        self.over_at = time.monotonic()

    async def a_moment(self, least: float = 0.0, most: float = 1.0) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))

    async def act(self, action: str, body: object = None, campaign: str = "") -> tuple[float, int]:
        """POSTs until the api answers; returns when it did, and with what."""
        path = f"/campaigns/{campaign or self.campaign}/{action}"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    async with self.system.client() as client:
                        response = await client.post(path, json=body or {})
                    if response.status_code < 500:
                        return time.monotonic(), response.status_code
                except UNREACHABLE:
                    pass
                await asyncio.sleep(LOOK_SECONDS)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Asks the ledger, again and again while it is away."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await question()
                except Exception as error:
                    if not is_unavailable(error):
                        raise
                    await asyncio.sleep(LOOK_SECONDS)

    async def health(self, name: str) -> Mapping[str, str]:
        """What the checks of a process's /health/ready say."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            answer: Mapping[str, str] = (await client.get(f"{self.processes[name].http_url}/health/ready")).json()[
                "checks"
            ]
        return answer

    async def expect_metric(self, name: str, sample: str, holds: Callable[[float], bool]) -> None:
        """What a process tells of its trouble in /metrics."""
        value = await self.processes[name].metric(sample)
        if not holds(value):
            self.problems.append(f"{name} says {sample} {value:g}")

    def received_between(self, begin: float, end: float) -> int:
        """Emails the relay has kept between two moments."""
        count = 0
        for email in reversed(self.relay.received):
            if email.kept_at < begin:
                break
            count += email.kept_at < end
        return count

    async def wait_received(self, emails: int) -> None:
        wanted = len(self.relay.received) + emails
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.relay.received) < wanted:  # noqa: ASYNC110 - the relay is in another thread
                await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def world(fault: Fault, conditions: Conditions, parts: Parts) -> AsyncIterator[World]:
    """The installation, running, with nothing sent yet."""
    settings = {**conditions.settings, **fault.settings}
    async with AsyncExitStack() as stack:
        relay = RecordingRelay()
        relay.start()
        stack.callback(relay.stop)
        relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
        system = await stack.enter_async_context(
            installation(
                parts.folder, parts.database_url, parts.vhost.admin_url, parts.vhost.services_url, relay, **settings
            )
        )
        proxies = {link: proxy for link in fault.links if (proxy := _proxy(stack, parts, relay, link)) is not None}
        eyes = Ledger(parts.database_url, pool_size=2, application="eyes")
        stack.push_async_callback(eyes.close)
        clock = _clock(parts.folder)
        for service in ("api", "dispatcher", "watchdog"):
            system.launch(service, environment=clock if service == fault.clock_of else None)
            if fault.twins and service != "api":
                system.launch(service, f"{service}-2")
        for sender in SENDERS:
            system.launch(
                "sender",
                sender,
                environment=clock if sender == fault.clock_of else None,
                **(_through(proxies, system, relay) if sender == SENDERS[0] else {}),
            )
        await asyncio.gather(*(process.wait_ready() for process in system.processes.values()))
        yield World(
            fault, conditions, parts, system, relay, eyes, proxies, random.Random(f"{fault.name} {conditions.seed}")
        )


def _proxy(stack: AsyncExitStack, parts: Parts, relay: RecordingRelay, link: str) -> Proxy | None:
    """None: there is no such link, as SQLite is reached without a network."""
    database = parts.postgres.port if parts.postgres is not None else None
    port = {"broker": parts.broker.amqp_port, "relay": relay.port, "database": database}[link]
    if port is None:
        return None
    proxy = Proxy(port)
    proxy.start()
    stack.callback(proxy.stop)
    return proxy


def _through(proxies: Mapping[str, Proxy], system: System, relay: RecordingRelay) -> dict[str, str]:
    """The settings of a sender that reaches what it needs through these proxies."""
    direct = {
        "broker": ("amqp_url", system.services_url),
        "database": ("database_url", system.database_url),
        "relay": ("relays", relay.url),
    }
    return {direct[link][0]: with_port(direct[link][1], proxy.port) for link, proxy in proxies.items()}


CLOCK_FILE = "clock"


def _clock(folder: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is what the file says; monotonic time stays true."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    (folder / CLOCK_FILE).write_text("+0")
    return {
        "LD_PRELOAD": str(library or ""),
        "FAKETIME_TIMESTAMP_FILE": str(folder / CLOCK_FILE),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def any_of(world: World, names: Sequence[str]) -> str:
    return world.chance.choice(list(names))
