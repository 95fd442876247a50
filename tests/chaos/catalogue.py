"""The catalogue of faults. `@fault` adds a function of `tests/chaos/faults/` to it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.world import World

SQLITE, POSTGRESQL = "sqlite", "postgresql"
LEDGERS = (SQLITE, POSTGRESQL)
MODULES = (
    "processes",
    "brokers",
    "broker_clusters",
    "databases",
    "networks",
    "relays",
    "breakers",
    "limits",
    "clients",
    "feedback",
    "clocks",
    "outbound",
    "schedules",
)

Inflict = Callable[["World"], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One way to break the system, and what may follow from it.

    `inflict` breaks something, repairs it, and returns once nothing is broken any more. It adds to
    `World.allowed_duplicates` what docs/guarantees.md permits for what it did."""

    name: str
    title: str
    inflict: Inflict
    #: The module of the fault, without its package. Faults of one module share a lane of a random schedule.
    module: str
    ledgers: tuple[str, ...] = LEDGERS
    #: What `sender-1` reaches through a proxy: "broker", "database", "relay".
    links: tuple[str, ...] = ()
    #: Settings of the whole installation, names without the prefix.
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Fields of the campaign, beyond the usual ones.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: The status in which the campaign must end.
    final_status: str = "finished"
    #: The statuses in which recipients may end.
    allowed_statuses: frozenset[str] = frozenset({"sent"})
    #: Lengthens the campaign, so that mail is left when the fault is over.
    extra_seconds: float = 0.0
    #: Lengthens the campaign by one lease as well.
    outlasts_lease: bool = False
    #: Mail must flow as fast afterwards as before.
    recovers: bool = True
    #: PostgreSQL has a synchronous standby.
    has_standby: bool = False
    #: Runs two dispatchers and two watchdogs.
    two_of_each: bool = False
    #: Runs on a cluster of three brokers.
    cluster: bool = False
    #: The project has webhooks, and a queue on the exchange. What they get is accounted for.
    subscribed: bool = False
    #: The process whose wall clock the fault can set.
    clock_of: str = ""
    #: Sets `deliver_by` this many seconds after `send`, plus up to 2 s at random.
    deliver_within_seconds: float | None = None
    #: The random schedule may pick this fault.
    in_random_schedule: bool = False


FAULTS: dict[str, Fault] = {}


def fault(title: str, **how: Any) -> Callable[[Inflict], Inflict]:
    """Adds the decorated coroutine function to the catalogue under its own name, with dashes for underscores."""

    def register(inflict: Inflict) -> Inflict:
        name = inflict.__name__.replace("_", "-")
        assert name not in FAULTS, name
        how["allowed_statuses"] = frozenset(how.get("allowed_statuses", ("sent",)))
        FAULTS[name] = Fault(name, title, inflict, inflict.__module__.rpartition(".")[2], **how)
        return inflict

    return register


def load() -> dict[str, Fault]:
    """Imports every module of faults and returns the whole catalogue, in the order of `MODULES`."""
    for module in MODULES:
        import_module(f"tests.chaos.faults.{module}")
    return FAULTS
