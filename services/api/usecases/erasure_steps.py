"""What the phases of an erasure are given, and what they say."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.address_text import Mentions
from shared.addresses import Address


class Person(NamedTuple):
    """Who is erased from which project."""

    project_id: UUID
    address: Address
    mentions: Mentions


class Step(NamedTuple):
    """What one transaction did."""

    #: Where the phase goes on; None: it is over.
    cursor: str | None
    #: Recipients that were erased.
    recipients: int = 0
    #: It has to wait for senders, and did nothing.
    waits: bool = False


class Progress(Enum):
    """How an erasure stands after a transaction."""

    MORE = auto()
    WAITS = auto()
    DONE = auto()
    #: Another process has finished it.
    GONE = auto()


Phase = Callable[[AsyncConnection, Person, str | None], Awaitable[Step]]
"""One chunk of a phase, from a cursor on (None: from the beginning)."""
