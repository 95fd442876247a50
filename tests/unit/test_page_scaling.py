"""The page's answer to whether more senders would help, and what it shows of senders, relays and providers."""

from typing import Any

import pytest

from services.api.page import senders
from services.api.shapes.operations import ServiceOut
from services.api.usecases.scaling import CLEAR_SECONDS, Advice, Help, RelayLoad, SenderLoad, advice

SEEN_AT = 1_700_000_000.0
FREE = RelayLoad("mx", is_resting=False, is_full=False)
FULL = RelayLoad("mx", is_resting=False, is_full=True)
RESTS = RelayLoad("mx", is_resting=True, is_full=False)


def sender(rate: float = 100.0, held: int = 2, *relays: RelayLoad) -> SenderLoad:
    return SenderLoad(rate, 2, held, relays or (FREE,))


@pytest.mark.parametrize(
    ("loads", "backlog", "answer", "words", "suggested"),
    [
        ([], 10, Help.YES, "No sender is alive", 1),
        ([sender(), sender(0.0, 0), sender(0.0, 0)], 0, Help.NO, "No email waits", 1),
        ([sender(0.0, 0, RESTS), sender(0.0, 0, RESTS)], 9_000, Help.NO, "Every relay rests", 2),
        ([sender(100.0, 1)], 10**6, Help.NO, "they hold 1 of 2 batches", 1),
        ([sender(0.0, 2)], 10**6, Help.NO, "nothing was sent", 1),
        ([sender(), sender()], 20_000, Help.NO, "gone in 100 s", 2),
        ([sender(), sender(80.0)], 120_000, Help.YES, "hold all 4 batches", 4),
        ([sender(100.0, 2, FULL), sender(100.0, 2, FULL, RESTS)], 120_000, Help.PERHAPS, "All connections", 4),
        ([sender(100.0, 2, FULL), sender(100.0, 2, FULL, FREE)], 120_000, Help.YES, "hold all", 4),
        ([sender(1.0)], 10**9, Help.YES, "hold all 2", 1000),
    ],
)
def test_the_answer_names_what_is_the_limit(
    loads: list[SenderLoad], backlog: int, answer: Help, words: str, suggested: int
) -> None:
    found = advice(loads, backlog)
    assert (found.help, found.senders) == (answer, suggested)
    assert words in found.why


def test_yes_always_suggests_more_senders_than_there_are() -> None:
    """However uneven their rates are: one fast sender does not hide that all of them together are too slow."""
    loads = [sender(1.0), sender(1.0), sender(1.0), sender(400.0)]
    found = advice(loads, int(403 * CLEAR_SECONDS) + 100)
    assert found == Advice(Help.YES, found.why, 5)


def beat(name: str, **relay: Any) -> ServiceOut:
    mx = {"name": "mx:25", "state": "up", "connections": 4, "in_flight": 4, "reason": "", "connections_limit": 4}
    batch = {"batch_id": 7, "campaign_id": "c", "generation": 1, "done": 9, "in_flight": 4}
    return ServiceOut.model_validate(
        {
            "id": f"{name}@host",
            "service": "sender",
            "host": "host",
            "pid": 1,
            "slot": name,
            "slots": 2,
            "draining": False,
            "alive": True,
            "started_at": SEEN_AT - 100,
            "seen_at": SEEN_AT,
            "detail": {
                "emails_per_second": 10.0,
                "batches": [{**batch, "age_seconds": 30.0, "idle_seconds": 2.0}],
                "relays": [{**mx, **relay}],
            },
        }
    )


def test_a_relay_is_listed_once_with_the_senders_for_which_it_rests() -> None:
    rests = beat("sender-2", state="resting", connections=0, in_flight=0, reason="421", resting_for_seconds=20.0)
    [row] = senders.relays([beat("sender-1"), rests])
    assert (row.name, row.senders, row.connections, row.limit, row.in_flight) == ("mx:25", 2, 4, 8, 4)
    assert row.resting == [senders.Resting("sender-2", SEEN_AT + 20, "421")]


def test_a_resting_provider_is_listed_once_for_each_relay() -> None:
    provider = {"name": "gmail", "reason": "421 4.7.0", "resting_for_seconds": 60.0}
    [row] = senders.providers([beat(f"sender-{number}", resting_providers=[provider]) for number in (1, 2)])
    assert (row.name, row.relay) == ("gmail", "mx:25")
    assert [(one.sender, one.until) for one in row.resting] == [("sender-1", SEEN_AT + 60), ("sender-2", SEEN_AT + 60)]


def test_a_heartbeat_of_an_older_sender_is_shown_without_what_it_does_not_say() -> None:
    old = beat("sender-1", state="resting", reason="421")
    del old.detail["relays"][0]["connections_limit"]
    [row] = senders.relays([old])
    assert (row.limit, row.resting) == (0, [senders.Resting("sender-1", None, "421")])
    assert senders.providers([old]) == []
    assert not senders.load(old).relays[0].is_full


def test_held_batches_say_since_when_by_the_ledger_s_clock() -> None:
    [held] = senders.held_batches([beat("sender-1")])
    assert (held.sender, held.id, held.held_since, held.last_result_at) == ("sender-1", 7, SEEN_AT - 30, SEEN_AT - 2)
