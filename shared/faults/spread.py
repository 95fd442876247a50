"""When refusals with the consequence SPREAD are so widespread that the campaign is at fault, not its recipients.

Pure functions; `shared/ledger/spread.py` counts in the ledger, so that all senders see the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RECIPIENTS = 5
"""SPREAD pauses a campaign when this many recipients got the same refusal ..."""

DOMAINS = 3
"""... in at least this many domains ..."""

FORGOTTEN_AFTER = 100
"""... before this many other emails of the campaign were accepted: a few filters refuse some of every campaign."""

MOST_KEPT = 50
"""The newest refusals of a campaign that are remembered."""


class Refused(NamedTuple):
    """One recipient that got such a refusal."""

    recipient_id: int
    domain: str
    refusal: str  # what `breakers.refusal_of` says


def newest(recent: Iterable[Refused], new: Iterable[Refused]) -> list[Refused]:
    """The newest refusals, oldest first: one per recipient, so that repeating a write adds nothing."""
    by_recipient = {one.recipient_id: one for one in recent}
    for one in new:
        by_recipient.pop(one.recipient_id, None)
        by_recipient[one.recipient_id] = one
    return list(by_recipient.values())[-MOST_KEPT:]


def widespread(recent: Sequence[Refused]) -> str | None:
    """The refusal that enough recipients in enough domains got; None if there is none."""
    same = defaultdict[str, list[str]](list)
    for one in recent:
        same[one.refusal].append(one.domain)
    for refusal, domains in same.items():
        if len(domains) >= RECIPIENTS and len(set(domains)) >= DOMAINS:
            return refusal
    return None
