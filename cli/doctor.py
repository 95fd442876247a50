"""Checks of one installation: for each part, what was found and what to do about it."""

import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli import access, queues, replicas
from cli.local.installation import Installation
from cli.local.ports import is_free
from cli.local.programs import Program, mailbox_program, service_programs
from cli.relays import try_relay
from cli.settings import LocalSettings
from shared import tls
from shared.errors import ConfigurationError, VashSenderError
from shared.ledger import migrate
from shared.ports import holder
from shared.relays.url import relays_of
from shared.signing import Use

LEAST_FREE_BYTES = 1_000_000_000
PROBE_SECONDS = 3.0
GREATEST_CLOCK_DIFFERENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Examined:
    name: str
    ok: bool
    found: str
    advice: str


async def examine(config: LocalSettings) -> list[Examined]:
    """Makes every check, even if others fail."""
    return [
        *await _database(config),
        *await _broker(config),
        _encryption(config),
        _signing(config),
        _disk(config),
        _permissions(config),
        _ports(config),
        *await examine_relays(config),
    ]


async def _database(config: LocalSettings) -> list[Examined]:
    try:
        current = await access.revision(config)
        async with access.ledger_of(config) as ledger:
            before = time.time()
            theirs = await ledger.now()
            difference = theirs - (before + time.time()) / 2
    except VashSenderError as error:
        return [Examined("database", False, str(error), "start it, or correct VASHSENDER_DATABASE_URL")]
    head = migrate.head()
    return [
        Examined("database", True, "it answers", ""),
        Examined("schema", current == head, f"at {current or 'nothing'}", "`vashsender db upgrade`"),
        Examined(
            "clock",
            abs(difference) < GREATEST_CLOCK_DIFFERENCE_SECONDS,
            f"{difference:+.2f} s between the database and this machine",
            "run an NTP client on both: leases use the database's clock, logs use this machine's",
        ),
    ]


async def _broker(config: LocalSettings) -> list[Examined]:
    try:
        depths = await queues.depths(config.broker_admin_url)
    except VashSenderError as error:
        return [Examined("broker", False, str(error), "start it, or correct VASHSENDER_AMQP_URL")]
    missing = [depth.name for depth in depths if not depth.exists]
    return [
        Examined("broker", True, "it answers", ""),
        Examined(
            "topology",
            not missing,
            f"missing: {', '.join(missing)}" if missing else "every queue and exchange exists",
            "`vashsender topology declare`",
        ),
        *await _replicas(config),
    ]


async def _replicas(config: LocalSettings) -> list[Examined]:
    """Whether every queue of a cluster survives the loss of a node. Nothing is said about a single broker."""
    url = config.amqp_management_url.get_secret_value()
    nodes = await replicas.nodes_named(config.broker_url)
    if not url and nodes == 1:
        return []
    if not url:
        return [
            Examined("replicas", True, f"not looked at: {nodes} brokers, but no VASHSENDER_AMQP_MANAGEMENT_URL", "")
        ]
    try:
        short = replicas.short(await replicas.replicas(url, config.ca_file), nodes)
    except VashSenderError as error:
        return [Examined("replicas", False, str(error), "correct VASHSENDER_AMQP_MANAGEMENT_URL")]
    return [
        Examined(
            "replicas",
            not short,
            f"too few: {', '.join(f'{queue} {count}' for queue, count in short.items())}"
            if short
            else "on every broker",
            "on a broker, for each NODE that lacks one: "
            f"rabbitmq-queues grow NODE all --vhost-pattern '^{replicas.vhost_of(url)}$' --queue-pattern '.*'",
        )
    ]


def _encryption(config: LocalSettings) -> Examined:
    """Whether connections to other machines are encrypted and verified. In development they need not be."""
    addresses = {"broker": config.amqp_url.get_secret_value(), "database": config.ledger_url}
    clear = [f"{what} at {', '.join(tls.hosts(url))}" for what, url in addresses.items() if tls.in_the_clear(url)]
    return Examined(
        "encryption",
        not clear or config.environment == "development",
        f"not verified, perhaps not encrypted: {', '.join(clear)}" if clear else "broker and database are verified",
        "use amqps:// and sslmode=verify-full, with VASHSENDER_CA_FILE for a private authority: see docs/access.md",
    )


def _signing(config: LocalSettings) -> Examined:
    """Whether the API can verify what senders sign."""
    given = config.unsubscribe_key.get_secret_value().partition(",")[0].strip()
    advice = "give senders what `vashsender access unsubscribe-key` prints for the API's secret key"
    try:
        known = config.signing_keys(Use.UNSUBSCRIBE)
    except ConfigurationError as error:
        return Examined("signing keys", not given, str(error), "give this command the API's secret key")
    if given and given.encode() not in known:
        return Examined("signing keys", False, "unsubscribe links that senders sign are invalid for the API", advice)
    return Examined("signing keys", True, "the API verifies what senders sign", "")


def _disk(config: LocalSettings) -> Examined:
    where = next(folder for folder in (config.home, *config.home.parents) if folder.exists())
    free = shutil.disk_usage(where).free
    found = f"{free / 1e9:.1f} GB free for {where}"
    return Examined("disk", free > LEAST_FREE_BYTES, found, "free some space: a full disk stops the ledger")


def _permissions(config: LocalSettings) -> Examined:
    others = stat.S_IRWXG | stat.S_IRWXO
    wrong = [str(path) for path in _private_files(config) if path.stat().st_mode & others]
    found = f"others can read {', '.join(wrong)}" if wrong else "only you can read secrets, logs and sockets"
    return Examined("file permissions", not wrong, found, "chmod go= them")


def _private_files(config: LocalSettings) -> Iterator[Path]:
    for folder in (config.secrets_dir, config.logs, config.run_dir):
        if folder.exists():
            yield from (path for path in folder.rglob("*") if path.is_file() or path.is_socket())


def _ports(config: LocalSettings) -> Examined:
    """Ports that this installation would use but another process holds."""
    running = Installation(config).supervisor.holders()
    programs = [*service_programs(config, config.sender_processes, {}), mailbox_program(config)]
    taken = [
        f"{port} ({purpose}) by {holder(port)}"
        for program in programs
        if program.name not in running and not _serves(program)
        for purpose, port in program.ports.items()
        if not is_free(port)
    ]
    found = f"taken: {'; '.join(taken)}" if taken else "all free or used by VashSender"
    return Examined("ports", not taken, found, "stop that process, or set other ports")


def _serves(program: Program) -> bool:
    """Whether it runs without our supervisor, for example under systemd, where the port's owner may be hidden."""
    try:
        said = httpx.get(program.ready_url, timeout=PROBE_SECONDS, trust_env=False).text
    except httpx.HTTPError:
        return False
    return said == "ok\n" or said.startswith('{"status":')


async def examine_relays(config: LocalSettings) -> list[Examined]:
    """Tries each relay that a sender would use, or says why a sender would use none."""
    try:
        relays = relays_of(config)
    except ConfigurationError as error:
        return [Examined("relays", False, str(error), "correct it: no sender starts with it")]
    if not config.relay_urls:
        return [Examined("relays", True, "none is set: mail goes to the development mailbox", "")]
    tried = [await try_relay(relay, config.smtp_connect_seconds) for relay in relays]
    return [
        Examined(f"relay {each.name}", each.ok, each.found, "correct VASHSENDER_RELAYS, or ask its operator")
        for each in tried
    ]
