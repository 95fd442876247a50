"""Limits as a test needs them, and the most emails of any second and of any moment."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from shared.ledger.rate_limits import Limit
from tests.support.relay import Received


def limit(scope: str, emails_per_second: float | None, **values: Any) -> Limit:
    """A limit under which nothing is reserved yet."""
    nothing = {
        **dict.fromkeys(("emails_per_hour", "emails_per_day")),
        **dict.fromkeys(("next_at", "hour", "hour_count", "day", "day_count"), 0),
        **dict.fromkeys(("warmup_start", "warmup_growth", "warmup_until", "warmup_day")),
    }
    return Limit(scope, emails_per_second, **{**nothing, **values})


def most_in_a_second(moments: Sequence[float]) -> int:
    """The most of these moments that lie in one second, wherever it begins."""
    ordered = sorted(moments)
    return max((bisect_left(ordered, moment + 1.0) - number for number, moment in enumerate(ordered)), default=0)


def most_at_once(emails: Iterable[Received]) -> int:
    """The most of these emails whose bodies were on their way at one moment."""
    changes = sorted(change for email in emails for change in ((email.first_byte_at, 1), (email.kept_at, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
