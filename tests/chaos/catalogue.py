"""Every way in which things are broken: one `Fault` each, listed by `@fault` where it is told how."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.world import World

SQLITE, POSTGRESQL = "sqlite", "postgresql"
LEDGERS = (SQLITE, POSTGRESQL)
MODULES = ("processes", "brokers", "databases", "networks", "relays", "clients", "clocks", "schedules")

Inflict = Callable[["World"], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One fault. `inflict` breaks, mends, and returns when nothing is broken any more; it adds to the world's bound of
    duplicates what DESIGN.md allows for what it did.

    `links`: what `sender-1` reaches through a proxy. `settings` are the installation's, `fields` the campaign's.
    `twins`: two dispatchers and two watchdogs run. `clock_of`: the process whose clock can be set.
    `ends_as` and `may_be`: how the campaign and its recipients may end.
    `lasts_seconds`: how much longer than usual the campaign must be so that there is mail left when the fault is over;
    `outlasts_lease`: by a lease besides. `speeds_up`: mail flows as before afterwards.
    `mixes`: may stand in a random schedule, in one lane with the faults of the same module."""

    name: str
    title: str
    inflict: Inflict
    module: str
    ledgers: tuple[str, ...] = LEDGERS
    links: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    ends_as: str = "finished"
    may_be: frozenset[str] = frozenset({"sent"})
    lasts_seconds: float = 0.0
    outlasts_lease: bool = False
    speeds_up: bool = True
    twins: bool = False
    clock_of: str = ""
    deliver_within_seconds: float | None = None
    mixes: bool = False


FAULTS: dict[str, Fault] = {}


def fault(title: str, **how: Any) -> Callable[[Inflict], Inflict]:
    """Lists the decorated coroutine function under its own name, with dashes."""

    def register(inflict: Inflict) -> Inflict:
        name = inflict.__name__.replace("_", "-")
        assert name not in FAULTS, name
        how["may_be"] = frozenset(how.get("may_be", ("sent",)))
        FAULTS[name] = Fault(name, title, inflict, inflict.__module__.rpartition(".")[2], **how)
        return inflict

    return register


def load() -> dict[str, Fault]:
    """The whole catalogue, in the order in which it is told."""
    for module in MODULES:
        import_module(f"tests.chaos.faults.{module}")
    return FAULTS
