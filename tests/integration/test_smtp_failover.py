"""Relays that fail, rest, are probed and come back; relays that want less."""

import asyncio
from dataclasses import replace

import pytest

from services.sender.smtp.contract import Job, Outcome, Verdict
from services.sender.smtp.engine import Engine
from shared.relays.config import RelayConfig
from shared.relays.replies import Stage
from tests.support.smtp.configs import engine_config, relay_config
from tests.support.smtp.mail import Letterbox, delivering, letters
from tests.support.smtp.observers import Noting
from tests.support.smtp.scripted import Act, scripted_relay
from tests.support.smtp.sink import unused_port

QUICK = engine_config(
    connect_seconds=0.4, reply_seconds=0.4, rest_seconds=0.05, rest_max_seconds=0.2, stall_seconds=0.05
)
LONG_REST = replace(QUICK, connect_seconds=2.0, reply_seconds=2.0, rest_seconds=30.0, rest_max_seconds=30.0)


class States(Noting):
    """Keeps the states that relays changed to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        self.seen.append((relay, state))
        self._changed.set()

    async def until(self, *state: tuple[str, str]) -> None:
        async with asyncio.timeout(10):
            while not all(wanted in self.seen for wanted in state):
                self._changed.clear()
                await self._changed.wait()


def refusing_relay() -> RelayConfig:
    """A relay that refuses connections."""
    return relay_config(unused_port(), "first")


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("CONNECT", "554 5.7.1 you are listed"),
        ("CONNECT", "421 4.7.0 too many connections"),
        ("CONNECT", Act.CLOSE),
        ("CONNECT", Act.SILENCE),
        ("EHLO", "550 we do not like your name"),
        ("EHLO", Act.RESET),
        ("MAIL", "530 5.7.0 authentication required"),
        ("MAIL", "421 4.3.2 shutting down"),
        ("MAIL", "450 4.7.1 rate limited"),
        ("MAIL", Act.CLOSE),
        ("MAIL", Act.SILENCE),
        ("RCPT", "451 4.7.1 slow down"),
        ("DATA", "452 4.3.1 disk full"),
    ],
)
async def test_an_email_that_fails_before_its_body_uses_the_next_relay(verb: str, answer: str | Act) -> None:
    async with scripted_relay(lambda said, _line: answer if said == verb else None) as bad, scripted_relay() as good:
        async with delivering([bad.config("first"), good.config("second")], letters(30), LONG_REST) as (_, box):
            await box.reported(30)
        assert box.verdicts() == {"accepted": 30}
        assert {outcome.relay for _, outcome in box.outcomes} == {"second"}
        assert len({recipient for recipient, _ in good.messages}) == 30


async def test_each_relays_refusal_is_logged_once() -> None:
    class Listening(Noting):
        heard: list[tuple[str, str, int | None]]

        def attempt(self, job: Job, outcome: Outcome) -> None:
            self.heard.append((job.rcpt_to, outcome.relay, outcome.code))

    def refuses_one(verb: str, line: str) -> str | None:
        return "451 4.7.500 Server busy" if verb == "RCPT" and "person1" in line else None

    observer = Listening()
    observer.heard = []
    async with scripted_relay(refuses_one) as first, scripted_relay(refuses_one) as second:
        relays = [first.config("first", connections=1), second.config("second", connections=1)]
        async with delivering(relays, letters(3), observer=observer) as (_, box):
            await box.reported(3)
    assert box.verdicts() == {"accepted": 2, "held": 1}
    assert sorted(observer.heard) == [
        ("person0@example.net", "first", 250),
        ("person1@example.net", "first", 451),
        ("person1@example.net", "second", 451),
        ("person2@example.net", "first", 250),
    ]


async def test_after_a_refused_connection_the_next_relay_is_used() -> None:
    async with (
        scripted_relay() as good,
        delivering([refusing_relay(), good.config("second")], letters(5), LONG_REST) as (engine, box),
    ):
        await box.reported(5)
        first, second = engine.status()
        assert (first.state, second.state) == ("resting", "up")
        assert "Errno 111" in first.reason
        assert first.resting_for_seconds > 20
        assert engine.blocked_reason() is None
    assert box.verdicts() == {"accepted": 5}


async def test_a_rested_relay_is_probed_and_takes_over_again() -> None:
    down = True
    states = States()
    async with (
        scripted_relay(lambda verb, _line: "554 not now" if down and verb == "CONNECT" else None) as first,
        scripted_relay() as second,
    ):
        relays = [first.config("first"), second.config("second")]
        async with delivering(relays, letters(5), QUICK, states) as (_, box):
            await box.reported(5)
            assert {outcome.relay for _, outcome in box.outcomes} == {"second"}
            down = False
            await states.until(("first", "resting"), ("first", "up"))
            box.put(letters(5))
            outcomes = await box.reported(10)
        assert {outcome.relay for outcome in outcomes[5:]} == {"first"}


async def test_while_every_relay_rests_nothing_is_taken_and_the_reason_is_given() -> None:
    relays = [refusing_relay(), replace(refusing_relay(), name="second")]
    async with delivering(relays, letters(100), LONG_REST) as (engine, box):
        outcomes = await box.reported(1)
        assert outcomes[0].verdict is Verdict.RELAY_FAULT
        assert outcomes[0].stage is Stage.CONNECT
        await asyncio.sleep(0.3)
        assert box.open == 0
        assert box.taken <= refusing_relay().connections
        reason = engine.blocked_reason()
    assert reason is not None
    assert reason.count("connect:") == 2
    assert "relay first: connect: " in reason
    assert "next try in 2" in reason or "next try in 30" in reason


async def test_a_blocked_engine_goes_on_by_itself() -> None:
    down = True
    async with (
        scripted_relay(lambda verb, _line: Act.CLOSE if down and verb == "CONNECT" else None) as relay,
        delivering(relay.config(connections=2), letters(20), QUICK) as (engine, box),
    ):
        await box.reported(1)
        assert engine.blocked_reason()
        lost = box.verdicts()["relay_fault"]
        down = False
        await box.reported(20)
        assert engine.blocked_reason() is None
    assert box.verdicts() == {"relay_fault": lost, "accepted": 20 - lost}
    assert lost <= 2


async def test_rests_grow() -> None:
    rests: list[float] = []

    class Rests(Noting):
        def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
            rests.append(seconds)

    config = replace(QUICK, rest_seconds=0.02, rest_max_seconds=0.08)
    async with delivering(refusing_relay(), letters(1), config, Rests()) as (_, box):
        await box.reported(1)
        async with asyncio.timeout(10):
            while len(rests) < 5:  # noqa: ASYNC110 - real time passes
                await asyncio.sleep(0.01)
    assert 0.8 * 0.02 <= rests[0] <= 0.02
    assert 0.8 * 0.08 <= rests[4] <= 0.08


THROTTLE = "450 4.7.1 Error: too much mail from 192.0.2.1"


async def test_a_throttling_relay_gets_fewer_connections_and_later_all_again() -> None:
    throttling = True
    states = States()
    async with (
        scripted_relay(lambda verb, _line: THROTTLE if throttling and verb == "RCPT" else None) as relay,
        delivering(relay.config(connections=4), letters(40), QUICK, states) as (engine, box),
    ):
        outcomes = await box.reported(4)
        assert {outcome.verdict for outcome in outcomes} == {Verdict.THROTTLED}
        await states.until(("scripted", "slow"))
        assert engine.status()[0].state == "slow"
        async with asyncio.timeout(10):
            while engine.status()[0].connections > 2:  # noqa: ASYNC110 - the engine has no event for this
                await asyncio.sleep(0.01)
        assert THROTTLE in engine.status()[0].reason
        taken_while_throttled = box.taken
        throttling = False
        await box.reported(40)
        await states.until(("scripted", "up"))
        assert engine.status()[0].state == "up"
    assert taken_while_throttled < 40
    assert set(box.verdicts()) == {"throttled", "accepted"}


async def test_one_greylisted_recipient_does_not_slow_the_relay() -> None:
    states = States()
    async with (
        scripted_relay(lambda verb, line: "450 4.7.1 greylisted" if verb == "RCPT" and "7@" in line else None) as relay,
        delivering(relay.config(connections=2), letters(60), QUICK, states) as (_, box),
    ):
        await box.reported(60)
    assert box.verdicts() == {"accepted": 54, "transient": 6}
    assert states.seen == []


async def test_a_relay_that_refuses_further_connections_is_used_with_those_it_has() -> None:
    open_now = 0

    def at_most_two(verb: str, _line: str) -> str | None:
        nonlocal open_now
        if verb == "CONNECT":
            open_now += 1
            return "421 4.7.0 too many connections" if open_now > 2 else None
        return None

    async with scripted_relay(at_most_two) as relay:
        async with delivering(relay.config(connections=6), letters(300), LONG_REST) as (engine, box):
            await box.reported(300)
            assert engine.status()[0].state == "slow"
            assert engine.status()[0].connections == 2
        assert set(box.verdicts()) == {"accepted"}


async def test_an_outage_in_mid_campaign_costs_no_recipient_an_attempt() -> None:
    """Bodies that are out become ambiguous; all other emails wait at the source or use the other relay."""
    sent = 0

    def dies(verb: str, _line: str) -> Act | None:
        nonlocal sent
        sent += verb == "."
        return Act.RESET if sent > 20 else None

    async with scripted_relay(dies) as first, scripted_relay() as second:
        relays = [first.config("first", connections=3), second.config("second")]
        async with delivering(relays, letters(200), LONG_REST) as (_, box):
            await box.reported(200)
        verdicts = box.verdicts()
        assert set(verdicts) == {"accepted", "ambiguous"}
        assert verdicts["ambiguous"] <= 6
        arrived = [recipient for recipient, _ in (*first.messages, *second.messages)]
        assert len(arrived) == len(set(arrived)) == verdicts["accepted"]


async def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="names that differ"):
        Engine([refusing_relay(), refusing_relay()], QUICK)
    with pytest.raises(ValueError, match="at least one relay"):
        Engine([], QUICK)


async def test_a_source_that_is_ready_but_empty_is_not_asked_in_a_busy_loop() -> None:
    class Liar(Letterbox):
        asked = 0

        def take(self, relay: str) -> None:
            self.asked += 1

        async def ready(self) -> None:
            return

        def done(self, job: object, outcome: Outcome) -> None:
            raise AssertionError

    source = Liar()
    async with scripted_relay() as relay:
        engine = Engine([relay.config()], engine_config())
        running = asyncio.create_task(engine.run(source))
        await asyncio.sleep(0.3)
        await engine.drain(0)
        await running
    assert 2 <= source.asked <= 40


async def test_relays_with_weights_share_the_emails_and_stand_in_for_each_other() -> None:
    """Emails are added until both relays have had their turns; then one stops, and the other takes them all."""
    async with scripted_relay() as one, scripted_relay() as other, scripted_relay() as standby:
        relays = [one.config("one", weight=2), other.config("other", weight=1), standby.config("standby")]
        async with delivering(relays, letters(1), replace(QUICK, turn_seconds=0.02)) as (_, box), asyncio.timeout(30):
            sent = 1
            while not (one.messages and other.messages):
                await box.reported(sent)
                box.put(letters(1))
                sent += 1
            await box.reported(sent)
    assert box.verdicts() == {"accepted": sent}
    assert standby.messages == []
