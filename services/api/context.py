"""The parts of this process that requests are served with."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.api.metrics import ApiMetrics
from services.api.usecases.import_recipients import Imports
from shared.events import Event
from shared.ledger.database import Ledger
from shared.settings import ApiSettings


@dataclass(frozen=True)
class Api:
    settings: ApiSettings
    ledger: Ledger
    metrics: ApiMetrics
    publish: Callable[[Event], Awaitable[bool]]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the process begins to stop
    imports: Imports = field(init=False)

    def __post_init__(self) -> None:
        imports = Imports(self.settings, self.ledger, self.metrics, self.stopping)
        object.__setattr__(self, "imports", imports)
