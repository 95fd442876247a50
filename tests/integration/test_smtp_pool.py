"""Connections: as many as there are emails for, closed when idle or old, replaced when they hang."""

import asyncio
import time

from services.sender.smtp.contract import Job, Verdict
from services.sender.smtp.engine import Engine
from tests.support.smtp.configs import engine_config
from tests.support.smtp.mail import Letter, Letterbox, delivering, letters
from tests.support.smtp.scripted import Act, ScriptedRelay, scripted_relay


def open_sessions(relay: ScriptedRelay) -> int:
    return sum("closed" not in session.verbs for session in relay.sessions)


async def closed(engine: Engine) -> None:
    """Returns when the engine has no connection left."""
    async with asyncio.timeout(10):
        while engine.status()[0].connections:  # noqa: ASYNC110 - the engine has no event for this
            await asyncio.sleep(0.01)


async def test_no_connection_without_work() -> None:
    async with scripted_relay() as relay, delivering(relay.config()) as (engine, _):
        await asyncio.sleep(0.1)
        assert (relay.sessions, engine.status()[0].connections) == ([], 0)


async def test_as_many_connections_as_there_are_emails() -> None:
    async with scripted_relay() as relay, delivering(relay.config(connections=8), letters(3)) as (_, box):
        await box.reported(3)
        assert 1 <= len(relay.sessions) <= 3


async def test_there_are_never_more_connections_than_allowed() -> None:
    async with scripted_relay() as relay, delivering(relay.config(connections=4), letters(500)) as (engine, box):
        await box.reported(500)
        assert len(relay.sessions) == 4
        assert engine.status()[0].connections == 4
        assert engine.status()[0].in_flight == 0


async def test_idle_connections_are_reaped() -> None:
    config = engine_config(reap_seconds=0.05, rest_seconds=0.05)
    async with scripted_relay() as relay:
        emails = letters(10)
        async with delivering(relay.config(connections=3, idle_seconds=0.05), emails, config) as (engine, box):
            await box.reported(10)
            await relay.until(lambda: open_sessions(relay) == 0)
            assert all(session.verbs[-2:] == ["QUIT", "closed"] for session in relay.sessions)
            await closed(engine)
            box.put(letters(1))
            await box.reported(11)
    assert box.verdicts() == {"accepted": 11}


async def test_a_connection_that_was_idle_for_too_long_gets_no_email() -> None:
    """Also between two clean-ups: a firewall may have dropped the connection silently."""
    async with scripted_relay() as relay, delivering(relay.config(idle_seconds=0.05), letters(1)) as (_, box):
        await box.reported(1)
        await asyncio.sleep(0.1)
        box.put(letters(1))
        await box.reported(2)
        assert len(relay.sessions) == 2
        await relay.until(lambda: "QUIT" in relay.sessions[0].verbs)


async def test_old_connections_are_replaced_while_they_work() -> None:
    config = engine_config(reap_seconds=0.02, rest_seconds=0.05)
    async with scripted_relay() as relay:
        async with delivering(relay.config(connections=1, max_age_seconds=0.05), (), config) as (_, box):
            async with asyncio.timeout(10):
                while len(relay.sessions) < 3:
                    box.put(letters(1))
                    await box.reported(box.taken + len(box.pending))
        assert set(box.verdicts()) == {"accepted"}


async def test_a_hanging_connection_is_replaced_within_bounds() -> None:
    """Every email hangs: spare connections replace the working ones until they are used up."""
    config = engine_config(stall_seconds=0.02, email_soft_seconds=60, email_hard_seconds=60)
    async with scripted_relay(lambda verb, _line: Act.SILENCE if verb == "RCPT" else None) as relay:
        async with delivering(relay.config(connections=2, spare_connections=3), letters(50), config) as (engine, box):
            await relay.until(lambda: len(relay.sessions) == 2)
            await asyncio.sleep(0.2)
            assert len(relay.sessions) == 2  # the usual reply is not known yet
            await engine.drain(0)
        assert set(box.verdicts()) == {"not_started"}

    first = True

    def hangs_later(verb: str, _line: str) -> Act | None:
        nonlocal first
        if verb == "." and first:
            first = False
            return None
        return Act.SILENCE if verb == "." and not first else None

    async with scripted_relay(hangs_later) as relay:
        async with delivering(relay.config(connections=2, spare_connections=3), letters(50), config) as (engine, box):
            await box.reported(1)
            await relay.until(lambda: len(relay.sessions) >= 5)
            await asyncio.sleep(0.2)
            assert len(relay.sessions) == 5
            await engine.drain(0)
        assert box.verdicts()["ambiguous"] == 5


async def test_emails_that_hang_while_the_relay_goes_on_use_up_no_spare_connections() -> None:
    def hang(verb: str, line: str) -> Act | None:
        return Act.SILENCE if verb == "." and int(line[6 : line.index("@")]) % 150 == 149 else None

    config = engine_config(stall_seconds=0.05)
    async with (
        scripted_relay(hang) as relay,
        delivering(relay.config(connections=2, spare_connections=1), letters(1200), config) as (engine, box),
    ):
        await box.reported(1192, seconds=30)
        assert len(relay.sessions) >= 8  # one for each that hangs; the last letter may be one of them
        await engine.drain(0)
    assert box.verdicts() == {"accepted": 1192, "ambiguous": 8}


async def test_spare_connections_are_given_back() -> None:
    hanging = asyncio.Event()
    config = engine_config(stall_seconds=0.02, email_soft_seconds=0.5, email_hard_seconds=0.5, rest_seconds=0.05)

    def one_hangs(verb: str, line: str) -> Act | None:
        if verb == "." and line == "person20@example.net":
            hanging.set()
            return Act.SILENCE
        return None

    async with scripted_relay(one_hangs) as relay, delivering(relay.config(connections=1), (), config) as (engine, box):
        for count in range(30):
            box.put([Letter(f"person{count}@example.net")])
            if count != 20:
                await box.reported(count + 1 - hanging.is_set())
        assert len(relay.sessions) == 2
        await box.reported(30)
        assert box.verdicts() == {"accepted": 29, "ambiguous": 1}
        assert engine.status()[0].connections == 1


async def test_one_hanging_email_in_five_hundred_does_not_slow_the_others() -> None:
    async def seconds_for(count: int, hangs: bool) -> float:
        def hang(verb: str, line: str) -> Act | None:
            return Act.SILENCE if hangs and verb == "." and int(line[6 : line.index("@")]) % 500 == 250 else None

        limits = engine_config(email_soft_seconds=30, email_hard_seconds=30)
        async with (
            scripted_relay(hang) as relay,
            delivering(relay.config(connections=16), (), limits) as (engine, box),
        ):
            box.put(letters(16))
            await box.reported(16)
            begun = time.perf_counter()
            box.put(letters(count))
            await box.reported(16 + count - (count // 500 if hangs else 0), seconds=60)
            seconds = time.perf_counter() - begun
            await engine.drain(0)
        return seconds

    # More connections than usual: this relay is so fast that several connections hang before the first one is noticed.
    noticed_after = 0.5  # the last one to hang, and with it the email behind it
    pairs: list[tuple[float, float]] = []
    while not pairs or pairs[-1][1] >= pairs[-1][0] / 0.8 + noticed_after:
        assert len(pairs) < 3, pairs
        pairs.append((await seconds_for(6000, hangs=False), await seconds_for(6000, hangs=True)))


async def test_the_engine_may_be_cancelled_at_any_time() -> None:
    async with scripted_relay(lambda verb, _line: Act.SILENCE if verb == "." else None) as relay:
        box = Letterbox()
        box.put(letters(10))
        engine = Engine([relay.config(connections=2)], engine_config())
        running = asyncio.create_task(engine.run(box))
        await relay.until(lambda: sum("." in session.verbs for session in relay.sessions) == 2)
        running.cancel()
        (result,) = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError)
        assert box.open == 0
        assert box.verdicts() == {"ambiguous": 2, "not_started": 2}


async def test_a_drain_lets_what_is_in_flight_finish() -> None:
    async with scripted_relay(lambda verb, _line: Act.ABSORB if verb == "." else None) as relay:
        async with delivering(relay.config(connections=1), letters(1)) as (engine, box):
            await relay.until(lambda: relay.sessions and "." in relay.sessions[0].verbs)
            draining = asyncio.create_task(engine.drain(10))
            await asyncio.sleep(0.05)
            assert not draining.done()
            box.put(letters(3))
            await relay.say(relay.sessions[0], "250 2.0.0 Ok: queued as LATE")
            await draining
        assert box.verdicts() == {"accepted": 1}
        assert len(box.pending) == 3
        assert relay.sessions[0].verbs[-1] in ("QUIT", "closed")


async def test_a_drain_that_lasts_too_long_is_cut_short() -> None:
    async with scripted_relay(lambda verb, _line: Act.SILENCE if verb == "." else None) as relay:
        async with delivering(relay.config(connections=2), letters(10)) as (engine, box):
            await relay.until(lambda: sum("." in session.verbs for session in relay.sessions) == 2)
            await engine.drain(0.1)
            assert box.verdicts() == {"ambiguous": 2, "not_started": 2}
            assert all(outcome.verdict is not Verdict.TRANSIENT for _, outcome in box.outcomes)
        assert len(box.pending) == 6


async def test_a_drain_while_connections_are_being_opened_reports_the_waiting_emails() -> None:
    async with (
        scripted_relay(lambda verb, _line: Act.SILENCE if verb == "CONNECT" else None) as relay,
        delivering(relay.config(connections=3), letters(10)) as (engine, box),
    ):
        await relay.until(lambda: len(relay.sessions) == 3)
        await engine.drain(10)
        assert box.verdicts() == {"not_started": 3}


async def test_a_drained_engine_sends_quit() -> None:
    async with scripted_relay() as relay:
        async with delivering(relay.config(connections=3), letters(30)) as (_, box):
            await box.reported(30)
        assert all(session.verbs[-2:] == ["QUIT", "closed"] for session in relay.sessions)


async def test_no_body_begins_after_the_soft_limit() -> None:
    asked = asyncio.Event()
    config = engine_config(email_soft_seconds=0.1, email_hard_seconds=10, stall_seconds=0.1)

    def slow(verb: str, _line: str) -> Act | None:
        if verb == "RCPT":
            asked.set()
            return Act.ABSORB
        return None

    async with scripted_relay(slow, extensions=()) as relay, delivering(relay.config(), letters(1), config) as (_, box):
        await asked.wait()
        await asyncio.sleep(0.15)
        await relay.say(relay.sessions[0], "250 2.1.5 Ok, after all")
        (outcome,) = await box.reported(1)
        assert outcome.verdict is Verdict.TRANSIENT
        assert relay.bodies == []


async def test_a_slow_relay_is_not_a_hanging_one() -> None:
    """Replies that take as long as they always do open no spare connections."""

    async def answer_late(relay: ScriptedRelay) -> None:
        answered: list[str] = []
        while True:
            await relay.until(lambda: len(relay.bodies) > len(answered), seconds=60)
            await asyncio.sleep(0.06)
            for session in relay.sessions:
                if session.verbs.count(".") > session.verbs.count("answered"):
                    session.verbs.append("answered")
                    answered.append("250")
                    await relay.say(session, "250 2.0.0 Ok")

    config = engine_config(stall_seconds=0.02)
    async with scripted_relay(lambda verb, _line: Act.ABSORB if verb == "." else None, extensions=()) as relay:
        late = asyncio.create_task(answer_late(relay))
        async with delivering(relay.config(connections=2), letters(20), config) as (_, box):
            await box.reported(20, seconds=20)
            assert len(relay.sessions) == 2
        late.cancel()
        assert box.verdicts() == {"accepted": 20}


async def test_emails_that_are_aborted_are_reported_at_once_and_the_others_go_on() -> None:
    """Those whose body is out, and those whose body has not left."""
    emails = letters(18)
    unwanted = emails[:8]
    silent = {letter.rcpt_to for letter in unwanted}
    config = engine_config(stall_seconds=60, rest_seconds=0.05)
    async with (
        scripted_relay(lambda verb, who: Act.SILENCE if verb == "." and who in silent else None) as relay,
        delivering(relay.config(connections=4, spare_connections=0), unwanted, config) as (engine, box),
    ):
        await relay.until(lambda: len(relay.bodies) == 4)
        engine.abort(unwanted, "too long")
        assert box.open == 0
        assert box.verdicts() == {"ambiguous": 4, "not_started": box.taken - 4}
        before = box.taken
        box.put(emails[8:])
        await box.reported(before + 10)
        assert box.verdicts()["accepted"] == 10


async def test_an_accepted_email_that_is_aborted_at_the_same_instant_is_reported_as_accepted() -> None:
    """Without PIPELINING the second email is taken in the callback in which the first was accepted."""

    class Aborting(Letterbox):
        at_abort: tuple[int, int] | None = None

        def take(self, relay: str) -> Job | None:
            if self.taken == 1 and self.pending:
                before = len(self.outcomes)
                engine.abort([first], "too long")
                self.at_abort = before, len(self.outcomes)
            return super().take(relay)

    first, second = letters(2)
    box = Aborting()
    async with scripted_relay(extensions=()) as relay:
        config = relay.config(connections=1, spare_connections=0)
        async with delivering(config, (), box=box) as (engine, _):
            box.put([first, second])
            await box.reported(2)
    assert box.at_abort == (0, 1)
    assert box.verdicts() == {"accepted": 2}
