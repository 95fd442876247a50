"""The two breakers: when refusals look so alike that the relay or the list must be at fault, and a person must decide.

Pure functions; `shared/ledger/breakers.py` counts in the ledger, so that all senders see the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple
from zlib import crc32

from shared.faults.judge import normalised

WINDOW = 50
"""The newest results of a campaign at one relay that are judged."""

ALIKE = 45
"""So many of them must be the same permanent refusal ..."""

DOMAINS = 5
"""... in at least this many domains, if the campaign has sent nothing before ..."""

DOMAINS_AFTER_SENT = 10
"""... or this many if it has: a few dead domains in a row are usual in a sorted list."""

LIST_RESULTS = 1000
"""Results of a campaign before the list is judged."""


class Breaker(StrEnum):
    """What tripped."""

    RELAY = "relay"
    LIST = "list"


class Seen(NamedTuple):
    """One result at a relay."""

    recipient_id: int
    domain: str
    refusal: str  # what `refusal_of` says; empty for any result that is no permanent refusal
    at: float  # seconds by the database's clock


class Alike(NamedTuple):
    """Most of the newest results at a relay are the same permanent refusal."""

    domains: int  # that got it
    since: float  # the time of the first of them, in the database's seconds


def refusal_of(code: int, reply: str) -> str:
    """A short name for a refusal: the same for all replies that differ only in codes, addresses and ids."""
    return f"{code}-{crc32(normalised(reply).encode()):08x}"


def newest(recent: Iterable[Seen], new: Iterable[Seen]) -> list[Seen]:
    """The newest results, oldest first: one per recipient, so that repeating a write adds nothing."""
    by_recipient = {seen.recipient_id: seen for seen in recent}
    for seen in new:
        by_recipient.pop(seen.recipient_id, None)
        by_recipient[seen.recipient_id] = seen
    return list(by_recipient.values())[-WINDOW:]


def alike(recent: Sequence[Seen]) -> Alike | None:
    """Whether the newest results are nearly all the same permanent refusal."""
    if len(recent) < WINDOW:
        return None
    refusal, times = Counter(seen.refusal for seen in recent).most_common(1)[0]
    if not refusal or times < ALIKE:
        return None
    same = [seen for seen in recent if seen.refusal == refusal]
    return Alike(len({seen.domain for seen in same}), min(seen.at for seen in same))


def domains_needed(*, sent_before: bool, list_domains: int | None = None) -> int:
    """In how many domains a refusal must be alike. `list_domains`: how many the list has, if that was counted.

    A list with fewer domains than usually needed must show all of them; before anything was sent, one is enough."""
    needed = DOMAINS_AFTER_SENT if sent_before else DOMAINS
    if list_domains is None or list_domains >= needed:
        return needed
    return list_domains if sent_before else 1


def list_trips(gone: int, results: int, share: float) -> bool:
    """Whether more than `share` of a campaign's results say that there is no such mailbox."""
    return results >= LIST_RESULTS and gone > share * results
