"""The parts of this process that requests are served with."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.api.metrics import ApiMetrics
from services.api.room import Room
from services.api.usecases.acts import note_current
from services.api.usecases.import_recipients import Imports
from services.api.usecases.quotas import Streams
from shared.events import Event
from shared.ledger.database import Ledger
from shared.settings import ApiSettings

LARGE_BODIES = 1
"""Bodies of the greatest length that are received at once; others are not read yet."""


@dataclass(frozen=True)
class Api:
    settings: ApiSettings
    ledger: Ledger
    metrics: ApiMetrics
    publish: Callable[[Event], Awaitable[bool]]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the process begins to stop
    imports: Imports = field(init=False)
    streams: Streams = field(default_factory=Streams)
    #: For bodies that arrive, and for contents that are worked on, which takes several times their size.
    receiving: Room = field(init=False)
    working: Room = field(init=False)

    def __post_init__(self) -> None:
        largest, patience = self.settings.max_content_bytes, self.settings.http_body_seconds
        object.__setattr__(self, "receiving", Room(LARGE_BODIES * largest, patience))
        object.__setattr__(self, "working", Room(largest, patience))
        imports = Imports(self.settings, self.ledger, self.metrics, self.stopping)
        object.__setattr__(self, "imports", imports)
        self.ledger.before_commit = note_current
