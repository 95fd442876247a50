"""The relay answers 421, 451, 550, nothing at all, or dies after the dot."""

import asyncio
import zlib
from collections.abc import Callable

import psutil

from tests.chaos.catalogue import fault
from tests.chaos.world import CONNECTIONS, SECONDS_PER_EMAIL, SENDERS, UNRECORDED, World
from tests.support.relay import After, Behaviour

SHORT_REST = {"relay_rest_seconds": "1", "relay_rest_max_seconds": "2"}
SHORT_LIMITS = {**SHORT_REST, "email_soft_seconds": "2", "email_hard_seconds": "3"}
MOST_GROWN_BYTES = 10_000_000
RETRIED = {"retry_delay_seconds": 2}


@fault("the relay answers 421 to newcomers and to MAIL", settings=SHORT_REST, lasts_seconds=6, mixes=True)
async def answer_421(it: World) -> None:
    behaviour = it.relay.behaviour
    behaviour.banner = b"421 4.3.2 not now\r\n"
    behaviour.mail = lambda: b"421 4.7.0 too many\r\n"
    await it.a_moment(2, 4)
    well_again(it)


@fault("the relay answers 451 to every other email", settings=SHORT_REST, fields=RETRIED, lasts_seconds=4, mixes=True)
async def answer_451(it: World) -> None:
    it.relay.behaviour.dot = lambda rcpt, _tries: b"451 4.2.0 later\r\n" if chosen(rcpt, 2) else After.ACCEPT
    await it.a_moment(2, 3)
    well_again(it)


@fault("the relay answers 550 to every tenth recipient", may_be=("sent", "failed"), lasts_seconds=3)
async def answer_550(it: World) -> None:
    def refuse(rcpt: str, _tries: int) -> bytes | None:
        if not chosen(rcpt, 10):
            return None
        it.refused.add(rcpt)
        return b"550 5.7.1 not for you\r\n"

    it.relay.behaviour.rcpt = refuse
    await it.a_moment(2, 3)
    well_again(it)


@fault("the relay takes emails and never answers", settings=SHORT_LIMITS, lasts_seconds=8)
async def never_answer(it: World) -> None:
    it.relay.behaviour.dot = counted(it, After.SILENCE)
    await it.a_moment(4, 5)
    well_again(it)


@fault("the relay takes emails and dies before it answers", settings=SHORT_REST, lasts_seconds=4, mixes=True)
async def die_after_dot(it: World) -> None:
    it.relay.behaviour.dot = counted(it, After.DROP)
    await it.a_moment(2, 3)
    well_again(it)


@fault("the relay dies after the dot and has lost the email", settings=SHORT_REST, lasts_seconds=4, mixes=True)
async def lose_after_dot(it: World) -> None:
    it.relay.behaviour.dot = lambda rcpt, _tries: After.DROP_UNKEPT if chosen(rcpt, 20) else After.ACCEPT
    await it.a_moment(2, 3)
    well_again(it)


@fault(
    "at_most_once: the relay takes emails and dies before it answers",
    settings=SHORT_REST,
    fields={"delivery": "at_most_once"},
    may_be=("sent", "unknown"),
    lasts_seconds=4,
)
async def die_after_dot_at_most_once(it: World) -> None:
    counting = counted(it, After.DROP)
    it.relay.behaviour.dot = counting
    await it.a_moment(2, 3)
    well_again(it)
    it.bound = 0  # who has committed the intent to send never sends again


@fault("the relay takes one email a second on each connection", lasts_seconds=3)
async def slow_down(it: World) -> None:
    """Work waits in the ledger: the senders hold no more of it than before. They are ready, as they do send; that every
    connection is busy all the time, the metrics tell."""
    before = [resident(it, sender) for sender in SENDERS]
    it.relay.behaviour.seconds_per_email = 1.0
    await it.a_moment(8, 10)
    grown = max(resident(it, sender) - then for sender, then in zip(SENDERS, before, strict=True))
    if grown > MOST_GROWN_BYTES:
        it.problems.append(f"a sender grew by {grown / 1e6:.0f} MB while the relay was slow")
    for sender in SENDERS:
        await it.expect_metric(sender, "vashsender_emails_in_flight", lambda value: CONNECTIONS <= value <= UNRECORDED)
        if (await it.health(sender))["relays"] != "ok":
            it.problems.append("a relay that is merely slow was called unusable")
    it.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL


def resident(it: World, name: str) -> int:
    return int(psutil.Process(it.processes[name].pid).memory_info().rss)


@fault("the relay is gone, and comes back", settings=SHORT_REST, lasts_seconds=5, mixes=True)
async def restart_relay(it: World) -> None:
    it.bound += len(SENDERS) * CONNECTIONS  # emails it had and could not answer for
    await asyncio.to_thread(it.relay.stop)
    await it.a_moment(2, 4)
    await asyncio.to_thread(it.relay.start)


def counted(it: World, answer: After) -> Callable[[str, int], bytes | After]:
    """Gives this answer to every twentieth recipient at the first try: one ambiguous attempt each."""

    def dot(rcpt: str, tries: int) -> bytes | After:
        if tries or not chosen(rcpt, 20):
            return After.ACCEPT
        it.bound += 1
        return answer

    return dot


def chosen(rcpt: str, one_in: int) -> bool:
    """The same recipients in every run."""
    return zlib.crc32(rcpt.encode()) % one_in == 0


def well_again(it: World) -> None:
    it.relay.behaviour = Behaviour(seconds_per_email=it.relay.behaviour.seconds_per_email)
