"""The contents of campaigns, loaded when an email needs them, and dropped when others need the room."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from services.sender.db import campaigns
from services.sender.db.campaigns import SHORT_BYTES
from services.sender.db.retry import until_available
from services.sender.memory import Memory
from shared.errors import VashSenderError
from shared.ledger.database import Ledger
from shared.messages.message import MessageBuilder

TENURE_SECONDS = 2.0
"""A content that others wait for starts no more emails after this time: campaigns that cannot all be loaded take
turns."""

MOST_READ = 32
"""Contents of up to SHORT_BYTES that wait to be loaded; another is read again when it is needed."""

Make = Callable[[list[str]], MessageBuilder]
"""Compiles the content of a campaign: one JSON text, which it takes out of the list, so that its memory is freed."""


class Content:
    """One campaign's content. `builder` is None while it is not loaded, or has to make room for another."""

    __slots__ = ("_loaded", "_loaded_at", "_users", "campaign_id", "error", "is_leaving", "make", "row_bytes", "size")

    def __init__(self, campaign_id: UUID, make: Make, stored_bytes: int) -> None:
        self.campaign_id = campaign_id
        self.make = make
        #: Bytes it takes: as stored, and known better once it was loaded.
        self.size = stored_bytes
        #: Why no email can be made of it.
        self.error = ""
        self.is_leaving = False
        #: See services.sender.worklist.
        self.row_bytes = 0.0
        self._loaded: MessageBuilder | None = None
        self._loaded_at = 0.0
        self._users = 0

    @classmethod
    def of(cls, builder: MessageBuilder) -> "Content":
        """A content that is loaded and stays so."""
        content = cls(UUID(int=0), lambda _: builder, 0)
        content.loaded(builder)
        return content

    @property
    def builder(self) -> MessageBuilder | None:
        return None if self.is_leaving else self._loaded

    @property
    def is_used(self) -> bool:
        """Emails in flight share its attachments."""
        return self._users > 0

    def note_row_bytes(self, average: float) -> None:
        """How much data its recipients have, so that the next batch is read in slices that fit."""
        self.row_bytes = average

    def use(self) -> None:
        """An email of it starts."""
        self._users += 1

    def used(self) -> bool:
        """An email of it has ended. Returns whether it has made room for another content by that."""
        self._users -= 1
        return self.is_leaving and not self._users

    def loaded(self, builder: MessageBuilder) -> None:
        self._loaded, self._loaded_at = builder, time.monotonic()
        self.size = builder.kept_bytes

    def take_error(self) -> str:
        """The error, once: when the campaign is resumed, its content may have been mended."""
        error, self.error = self.error, ""
        return error

    def drop(self) -> None:
        """Frees its memory. It may be loaded again."""
        self._loaded, self.is_leaving = None, False

    def tenure_ends(self) -> float:
        return self._loaded_at + TENURE_SECONDS


class Contents:
    """All contents of this process. They are loaded one at a time, since parsing one takes several times its size."""

    def __init__(self, ledger: Ledger, memory: Memory, wake_feed: Callable[[], None]) -> None:
        self._ledger = ledger
        self.memory = memory
        self._wake_feed = wake_feed
        #: Loaded; the one that was wanted longest ago first.
        self._loaded: dict[UUID, Content] = {}
        #: Emails wait for these, in this order.
        self._wanted: dict[UUID, Content] = {}
        #: Short ones that were read with their campaigns, as they are stored.
        self._read: OrderedDict[UUID, str] = OrderedDict()
        self._changed = asyncio.Event()

    def of(self, campaign_id: UUID, make: Make, stored_bytes: int, stored: str | None) -> Content:
        """The content of a campaign; the same one as long as it is loaded. `stored`: its JSON text, if it was read."""
        known = self._loaded.get(campaign_id) or self._wanted.get(campaign_id)
        if known is None and stored is not None:
            self._read[campaign_id] = stored
            if len(self._read) > MOST_READ:
                self._read.popitem(last=False)
        return known or Content(campaign_id, make, stored_bytes)

    def want(self, content: Content) -> None:
        """An email of this content could start. Wakes the feed once it is loaded."""
        if content.campaign_id not in self._wanted:
            self._wanted[content.campaign_id] = content
            self._changed.set()

    def expect(self, content: Content) -> None:
        """Emails of this content are about to start: it is loaded while their batch is read."""
        if content.builder is None and not content.error:
            self.want(content)

    def note_room(self) -> None:
        """There may be room for another content."""
        self._changed.set()

    async def run(self) -> None:
        """Loads what is wanted as soon as there is room."""
        while True:
            wait_seconds = None
            if (content := self._next_with_room()) is not None:
                await self._load(content)
                continue
            if self._wanted:
                wait_seconds = self._make_room()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()

    def _next_with_room(self) -> Content | None:
        """The first one wanted that fits; contents that no email uses are dropped for it."""
        for content in list(self._wanted.values()):
            if content.campaign_id in self._loaded:
                self._keep_if_alone(content)
            elif self._free_for(content.size):
                return content
        return None

    def _keep_if_alone(self, content: Content) -> None:
        """It was to make room, and no other content needs that any more."""
        if len(self._wanted) == 1:
            del self._wanted[content.campaign_id]
            content.is_leaving = False
            self._wake_feed()

    def _free_for(self, size: int) -> bool:
        for other in [one for one in self._loaded.values() if not one.is_used]:
            if self.memory.has_room_for_campaign(size):
                break
            if other.is_leaving or other.tenure_ends() <= time.monotonic():
                self._drop(other)
        return self.memory.has_room_for_campaign(size)

    def _make_room(self) -> float | None:
        """Lets the content that was loaded first start no more emails, if its time is over. Returns the seconds until
        another's is; None: nothing has to be done then."""
        if any(one.is_leaving for one in self._loaded.values()):
            return None
        first = min(self._loaded.values(), key=Content.tenure_ends, default=None)
        if first is None:
            return None
        left = first.tenure_ends() - time.monotonic()
        if left > 0:
            return left
        first.is_leaving = True
        return None if first.is_used else 0.0

    def _drop(self, content: Content) -> None:
        del self._loaded[content.campaign_id]
        self.memory.campaigns -= content.size
        content.drop()

    async def _load(self, content: Content) -> None:
        reserved = content.size
        self.memory.campaigns += reserved
        try:
            stored = [self._read.pop(content.campaign_id, "")]
            if not stored[0]:
                stored = [await until_available(lambda: campaigns.read_content(self._ledger, content.campaign_id))]
            is_short = len(stored[0]) <= SHORT_BYTES
            content.loaded(content.make(stored) if is_short else await asyncio.to_thread(content.make, stored))
        except (VashSenderError, ValueError) as error:
            # The API has checked it, so another version of this program wrote it.
            content.error = f"its emails cannot be made: {error}"
            self.memory.campaigns -= reserved
        except BaseException:
            self.memory.campaigns -= reserved
            raise
        else:
            self.memory.campaigns += content.size - reserved
            self._loaded[content.campaign_id] = content
        del self._wanted[content.campaign_id]
        self._wake_feed()
