"""What heartbeats say about batches, and what silence does not."""

from uuid import UUID

import pytest

from services.watchdog.findings import RescueReason
from services.watchdog.heartbeats import Heartbeats
from shared.events import BatchProgress, SenderHeartbeat
from shared.settings import WatchdogSettings, load

CAMPAIGN = UUID(int=7)


def beat(instance: str = "sender-1@a", *, idle: float = 0.0, age: float = 0.0, slots: int = 2) -> SenderHeartbeat:
    batch = BatchProgress(
        batch_id=1, campaign_id=CAMPAIGN, generation=2, done=0, in_flight=0, idle_seconds=idle, age_seconds=age
    )
    return SenderHeartbeat(
        instance=instance,
        host="a",
        pid=1,
        slots=slots,
        uptime_seconds=1.0,
        emails_done=0,
        emails_per_second=0.0,
        batches=(batch,),
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which a test can set."""
    clock = [1000.0]
    monkeypatch.setattr("services.watchdog.heartbeats.time.monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def heartbeats() -> Heartbeats:
    return Heartbeats(load(WatchdogSettings, stalled_seconds=100.0, batch_hard_seconds=200.0))


@pytest.mark.parametrize(
    ("idle", "age", "reason"),
    [
        (100.0, 100.0, None),
        (101.0, 101.0, RescueReason.STALLED),
        (1.0, 230.0, None),
        (1.0, 231.0, RescueReason.OVERDUE),
        (101.0, 231.0, RescueReason.STALLED),
    ],
)
def test_a_batch_is_suspect_beyond_its_limits(
    heartbeats: Heartbeats, idle: float, age: float, reason: RescueReason | None
) -> None:
    heartbeats.note(beat(idle=idle, age=age))
    assert [stalled.reason for stalled in heartbeats.stalled()] == ([reason] if reason else [])


def test_each_heartbeat_is_judged_once(heartbeats: Heartbeats) -> None:
    heartbeats.note(beat(idle=500.0))
    assert len(heartbeats.stalled()) == 1
    assert heartbeats.stalled() == []


def test_only_the_newest_heartbeat_of_a_sender_counts(heartbeats: Heartbeats) -> None:
    heartbeats.note(beat(idle=500.0))
    heartbeats.note(beat(idle=1.0))
    heartbeats.note(beat("sender-2@a", slots=3))
    assert heartbeats.stalled() == []
    assert sum(living.slots for living in heartbeats.living()) == 5


def test_a_silent_sender_is_forgotten_and_its_batches_are_not_suspect(heartbeats: Heartbeats, now: list[float]) -> None:
    heartbeats.note(beat(idle=1.0))
    assert heartbeats.stalled() == []
    now[0] += 19.0
    assert len(heartbeats.living()) == 1
    now[0] += 2.0
    assert heartbeats.living() == []
    assert heartbeats.stalled() == []


def test_no_number_of_names_takes_more_than_its_memory(
    heartbeats: Heartbeats, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.watchdog.heartbeats.MOST_SENDERS", 3)
    for number in range(10):
        heartbeats.note(beat(f"sender-{number}@a"))
    assert [known.instance for known in heartbeats.living()] == ["sender-0@a", "sender-1@a", "sender-2@a"]
    now[0] += 100.0
    heartbeats.note(beat("sender-7@a"))
    assert [known.instance for known in heartbeats.living()] == ["sender-7@a"], "silent ones make room"
