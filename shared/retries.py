"""When a recipient that was deferred is tried again."""

from dataclasses import dataclass

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

BY_SCHEDULE = 1_000_000
"""`max_retries` in the ledger of a campaign that does not set it: the sender's schedule decides, until
`deliver_by`. A sender of 0.1.0 doubles the delay instead, without end."""

OWN_RETRIES = 3
OWN_DELAY_SECONDS = 60
"""What a campaign has that sets only the other one."""

LONGEST_DOUBLED_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The wait in seconds after each attempt that was deferred."""

    delays: tuple[float, ...]
    #: The last wait repeats for ever; if not, no retry follows it.
    repeats: bool

    def delay_after(self, attempts: int) -> float | None:
        """The wait after an attempt that had `attempts` before it; None: it was the last."""
        if attempts < len(self.delays):
            return self.delays[attempts]
        return self.delays[-1] if self.repeats else None


def parse_schedule(text: str) -> RetrySchedule:
    """Reads waits as `1m,5m,15m,30m,1h,2h+` (s, m, h or d); `+` repeats the last. Raises ValueError."""
    waits = [wait.strip() for wait in text.removesuffix("+").split(",")]
    try:
        delays = tuple(float(wait[:-1]) * UNITS[wait[-1]] for wait in waits)
    except (IndexError, KeyError, ValueError):
        raise ValueError(f"a retry schedule reads 1m,5m,15m,30m,1h,2h+ (s, m, h or d), not {text!r}") from None
    if not all(1 <= delay <= 7 * UNITS["d"] for delay in delays):
        raise ValueError("a retry comes after 1 second to 7 days")
    return RetrySchedule(delays, text.endswith("+"))


def stored(max_retries: int | None, delay_seconds: int | None) -> dict[str, int]:
    """The columns of a campaign that sets these, or (None) does not."""
    if max_retries is None and delay_seconds is None:
        return {"max_retries": BY_SCHEDULE, "retry_delay_seconds": OWN_DELAY_SECONDS}
    return {
        "max_retries": OWN_RETRIES if max_retries is None else max_retries,
        "retry_delay_seconds": OWN_DELAY_SECONDS if delay_seconds is None else delay_seconds,
    }


def set_by_campaign(max_retries: int, delay_seconds: int) -> tuple[int | None, int | None]:
    """What a campaign sets, from its columns; None, None if the schedule decides."""
    return (None, None) if max_retries == BY_SCHEDULE else (max_retries, delay_seconds)


def doubling(delay_seconds: float, retries: int) -> RetrySchedule:
    """A campaign's own: so many retries, each after twice the wait of the one before, at most a day."""
    return RetrySchedule(
        tuple(min(delay_seconds * 2.0**number, LONGEST_DOUBLED_SECONDS) for number in range(retries)), repeats=False
    )
