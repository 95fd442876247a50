"""Follows a campaign until it closes: with a progress bar on a terminal, otherwise with a line per second."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from cli.client import ApiClient, ApiTimeoutError
from cli.output import duration, err, say
from cli.visible import visible
from shared.errors import UnavailableError
from shared.ledger.states import FINAL

POLL_SECONDS = 0.25
LINE_SECONDS = 1.0
RATE_SECONDS = 3.0
PATIENCE_SECONDS = 15.0
CLOSED = frozenset(status.value for status in FINAL)


@dataclass(frozen=True, slots=True)
class Look:
    """A campaign at one moment."""

    #: As the API shows it.
    campaign: Mapping[str, Any]
    #: Recipients closed per second lately.
    per_second: float
    #: Estimated time until none is open; None while nothing moves.
    left_seconds: float | None

    @property
    def counts(self) -> Mapping[str, int]:
        counts: Mapping[str, int] = self.campaign["counts"]
        return counts

    @property
    def open(self) -> int:
        return self.counts["pending"] + self.counts["deferred"]

    @property
    def closed(self) -> int:
        return self.counts["total"] - self.open

    @property
    def is_final(self) -> bool:
        return self.campaign["status"] in CLOSED

    def words(self) -> str:
        """`3 deferred, 412 sent, 2 failed, 1 batches rescued, 98/s, 6 s left`"""
        parts = [
            f"{count} {state}"
            for state, count in self.counts.items()
            if state not in ("total", "pending") and (count or state == "sent")
        ]
        if self.campaign["rescued"]:
            parts.append(f"{self.campaign['rescued']} batches rescued")
        if not self.is_final:
            parts.append(f"{self.per_second:.0f}/s")
            if self.left_seconds is not None:
                parts.append(f"{duration(self.left_seconds)} left")
        held = self.campaign["blocked_by"] or self.campaign["reason"]
        return ", ".join(parts) + (f" ({visible(held)})" if held else "")


def looks(api: ApiClient, campaign_id: str, *, timeout_seconds: float | None = None) -> Iterator[Look]:
    """Looks at a campaign until it has closed. Tolerates an API that is away for up to PATIENCE_SECONDS.

    Raises ApiTimeoutError if the campaign has not closed in time."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    answered = time.monotonic()
    history: list[tuple[float, int]] = []
    while True:
        try:
            campaign = api.get(f"/v1/campaigns/{campaign_id}")
        except (UnavailableError, ApiTimeoutError):
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            answered = time.monotonic()
            look = _look(campaign, history, answered)
            yield look
            if look.is_final:
                return
        if deadline is not None and time.monotonic() > deadline:
            raise ApiTimeoutError(f"campaign {campaign_id} is not closed after {timeout_seconds:g} s")
        time.sleep(POLL_SECONDS)


def follow(seen: Iterator[Look]) -> Look:
    """Shows looks on stderr as they come, and returns the last one."""
    return _bar(seen) if err().is_terminal else _lines(seen)


def detached(campaign_id: str) -> None:
    """Says how to follow the campaign again after Ctrl-C."""
    say(f"detached; the campaign continues. `vashsender campaign watch {campaign_id}` follows it again.")


def _look(campaign: Mapping[str, Any], history: list[tuple[float, int]], now: float) -> Look:
    counts = campaign["counts"]
    still_open = counts["pending"] + counts["deferred"]
    history.append((now, counts["total"] - still_open))
    while len(history) > 2 and now - history[0][0] > RATE_SECONDS:
        del history[0]
    seconds, closed = now - history[0][0], history[-1][1] - history[0][1]
    per_second = closed / seconds if seconds > 0 else 0.0
    return Look(campaign, per_second, still_open / per_second if per_second > 0 else None)


def _bar(seen: Iterator[Look]) -> Look:
    columns = (
        TextColumn("{task.fields[status]:<9}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[words]}", markup=False),  # a reason quotes replies of relays
    )
    look = None
    with Progress(*columns, console=err()) as progress:
        task = progress.add_task("", total=1, status="", words="")
        for look in seen:
            progress.update(
                task,
                total=look.counts["total"],
                completed=look.closed,
                status=look.campaign["status"],
                words=look.words(),
            )
    assert look is not None
    return look


def _lines(seen: Iterator[Look]) -> Look:
    look, told, said = None, 0.0, ""
    for look in seen:
        line = f"{look.campaign['status']}: {look.closed} of {look.counts['total']}, {look.words()}"
        if look.is_final or (line != said and time.monotonic() - told >= LINE_SECONDS):
            say(line)
            told, said = time.monotonic(), line
    assert look is not None
    return look
