"""Jobs for the engine, a source of them, and their outcomes."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Job, Outcome
from services.sender.smtp.engine import Engine
from services.sender.smtp.observe import Observer
from shared.relays.config import RelayConfig
from tests.support.smtp.configs import engine_config

BODY = b"Subject: hello\r\n\r\nA short body.\r\n"


@dataclass(eq=False)
class Letter:
    """A job with answers that a test can choose."""

    rcpt_to: str = "someone@example.net"
    content: bytes | Callable[[], bytes | Awaitable[bytes]] = BODY
    permission: bool | Callable[[], bool | Awaitable[bool]] = True
    mail_from: str = "news@example.org"
    token_from: str = ""
    smtputf8: bool = False
    permissions_asked: int = 0
    is_timed: bool = False

    def body(self) -> bytes | Awaitable[bytes]:
        return self.content if isinstance(self.content, bytes) else self.content()

    def may_send_body(self, relay: str) -> bool | Awaitable[bool]:
        self.permissions_asked += 1
        return self.permission if isinstance(self.permission, bool) else self.permission()


def letters(count: int, *, content: bytes = BODY) -> list[Letter]:
    """Letters to person0@example.net, person1@example.net and so on."""
    return [Letter(f"person{number}@example.net", content) for number in range(count)]


@dataclass
class Letterbox:
    """A source that holds letters. `outcomes`: each reported letter with its outcome, in order."""

    pending: deque[Letter] = field(default_factory=deque)
    outcomes: list[tuple[Letter, Outcome]] = field(default_factory=list)
    taken: int = 0

    def __post_init__(self) -> None:
        self._reported: set[int] = set()
        self._changed = asyncio.Event()
        self._filled = asyncio.Event()

    def put(self, letters: Iterable[Letter]) -> None:
        """Add letters."""
        self.pending.extend(letters)
        self._filled.set()

    def take(self, relay: str) -> Job | None:
        if not self.pending:
            self._filled.clear()
            return None
        self.taken += 1
        return self.pending.popleft()

    async def ready(self) -> None:
        await self._filled.wait()

    def done(self, job: Job, outcome: Outcome) -> None:
        assert isinstance(job, Letter)
        assert id(job) not in self._reported, "reported twice"
        self._reported.add(id(job))
        self.outcomes.append((job, outcome))
        self._changed.set()

    @property
    def open(self) -> int:
        """Letters that were taken and not reported."""
        return self.taken - len(self.outcomes)

    def verdicts(self) -> Counter[str]:
        """How many letters have each verdict."""
        return Counter(outcome.verdict.value for _, outcome in self.outcomes)

    async def reported(self, count: int, seconds: float = 60.0) -> list[Outcome]:
        """All outcomes, once there are `count`."""
        async with asyncio.timeout(seconds):
            while len(self.outcomes) < count:
                self._changed.clear()
                await self._changed.wait()
        return [outcome for _, outcome in self.outcomes]


@asynccontextmanager
async def delivering(
    relays: RelayConfig | Sequence[RelayConfig],
    letters: Iterable[Letter] = (),
    config: EngineConfig | None = None,
    observer: Observer | None = None,
    box: Letterbox | None = None,
) -> AsyncIterator[tuple[Engine, Letterbox]]:
    """An engine at work on a letterbox. At the end it is drained, and every taken letter must have been reported."""
    box = box or Letterbox()
    box.put(letters)
    engine = Engine([relays] if isinstance(relays, RelayConfig) else relays, config or engine_config(), observer)
    running = asyncio.create_task(engine.run(box))
    try:
        yield engine, box
    finally:
        await engine.drain(1.0)
        await running
    assert box.open == 0, f"{box.open} taken and never reported"
