"""The relay answers 421, 451, 550 or nothing at all, or drops the connection after the body."""

import asyncio
import zlib
from collections.abc import Callable

import psutil

from tests.chaos.catalogue import fault
from tests.chaos.world import CONNECTIONS, SECONDS_PER_EMAIL, SENDERS, UNRECORDED_LIMIT, World
from tests.support.relay import After, Behaviour

SHORT_REST = {"relay_rest_seconds": "1", "relay_rest_max_seconds": "2"}
SHORT_PROVIDER_REST = {"provider_hold_seconds": "1", "provider_rest_seconds": "1"}
SHORT_LIMITS = {**SHORT_REST, "email_soft_seconds": "2", "email_hard_seconds": "3"}
MAX_GROWTH_BYTES = 10_000_000
RETRIED = {"retry_delay_seconds": 2}
BY_SCHEDULE = {"retry_delay_seconds": None}


@fault(
    "the relay answers 421 to new connections and to MAIL",
    settings=SHORT_REST,
    extra_seconds=6,
    in_random_schedule=True,
)
async def answer_421(world: World) -> None:
    behaviour = world.relay.behaviour
    behaviour.banner = b"421 4.3.2 not now\r\n"
    behaviour.mail = lambda: b"421 4.7.0 too many\r\n"
    await world.random_pause(2, 4)
    restore_relay(world)


@fault(
    "the relay answers 451 to every other email",
    settings=SHORT_REST,
    fields=RETRIED,
    extra_seconds=4,
    in_random_schedule=True,
)
async def answer_451(world: World) -> None:
    world.relay.behaviour.dot = lambda rcpt, _tries: b"451 4.2.0 later\r\n" if chosen(rcpt, 2) else After.ACCEPT
    await world.random_pause(2, 3)
    restore_relay(world)


@fault("the relay answers 550 to every tenth recipient", allowed_statuses=("sent", "failed"), extra_seconds=3)
async def answer_550(world: World) -> None:
    def refuse(rcpt: str, _tries: int) -> bytes | None:
        if not chosen(rcpt, 10):
            return None
        world.refused.add(rcpt)
        return b"550 5.7.1 not for you\r\n"

    world.relay.behaviour.rcpt = refuse
    await world.random_pause(2, 3)
    restore_relay(world)


@fault(
    "one recipient in a hundred is greylisted, for longer than three retries take",
    settings={"retry_schedule": "1s,1s,1s,2s+", "retry_jitter": "0"},
    fields=BY_SCHEDULE,
    extra_seconds=8,
    in_random_schedule=True,
)
async def greylist_a_few(world: World) -> None:
    world.relay.behaviour.rcpt = lambda rcpt, _tries: (
        b"451 4.7.1 Recipient address rejected: Greylisted for 5 minutes\r\n" if chosen(rcpt, 100) else None
    )
    await world.random_pause(6, 7)
    restore_relay(world)


@fault(
    "the relay says after the body that our account has reached its limit",
    settings=SHORT_REST,
    extra_seconds=6,
    in_random_schedule=True,
)
async def refuse_the_account(world: World) -> None:
    world.relay.behaviour.dot = lambda _rcpt, _tries: b"550 5.7.1 Daily SMTP relay limit exceeded for customer.\r\n"
    await world.random_pause(3, 4)
    if not (await world.system.show(world.campaign))["blocked_by"]:
        world.problems.append("the campaign does not show what it is blocked by")
    restore_relay(world)


@fault("the relay refuses the sender after the body, until a person resumes the campaign", extra_seconds=6)
async def refuse_the_sender(world: World) -> None:
    world.relay.behaviour.dot = lambda _rcpt, _tries: (
        b"550 5.7.60 SMTP; Client does not have permissions to send as this sender\r\n"
    )
    answer = await world.system.wait_until(world.campaign, lambda now: now["status"] == "paused")
    if "permissions to send as this sender" not in answer["reason"]:
        world.problems.append(f"the campaign paused without the reply as its reason: {answer['reason']}")
    restore_relay(world)
    await world.call_action("resume")


@fault(
    "the relay refuses the content after the body, until a person resumes the campaign",
    allowed_statuses=("sent", "failed"),
    recovers=False,  # the other campaign is not disturbed, and may end before this one is resumed
)
async def refuse_the_content(world: World) -> None:
    """Five recipients in three domains are enough, whichever senders they were refused to."""

    def refuse(rcpt: str, _tries: int) -> bytes:
        world.refused.add(rcpt)
        return b"554 5.7.1 Message rejected as spam\r\n"

    other = await world.system.create([f"person-{number}@domain-{number % 5}.test" for number in range(400)])
    world.campaigns.append(other)
    world.relay.behaviour.dot = lambda rcpt, tries: (
        refuse(rcpt, tries) if rcpt.partition("@")[2].startswith("domain-") else After.ACCEPT
    )
    await world.system.send(other)
    answer = await world.system.wait_until(other, lambda now: now["status"] == "paused")
    if "rejected as spam" not in answer["reason"]:
        world.problems.append(f"the campaign paused without the reply as its reason: {answer['reason']}")
    restore_relay(world)
    await world.call_action("resume", campaign=other)
    await world.system.wait_closed(other)


@fault(
    "a provider refuses us for its rate",
    settings=SHORT_PROVIDER_REST,
    extra_seconds=8,
    in_random_schedule=True,
)
async def refuse_a_provider(world: World) -> None:
    world.relay.behaviour.rcpt = lambda rcpt, _tries: (
        b"421 4.7.28 unusual rate of email originating from your IP address\r\n" if chosen(rcpt, 2) else None
    )
    await world.random_pause(3, 4)
    restore_relay(world)


@fault(
    "a mailbox in ten receives too fast for now, in the words of a disabled one",
    settings={"retry_schedule": "1s,1s,2s+", "retry_jitter": "0"},
    fields=BY_SCHEDULE,
    extra_seconds=5,
    in_random_schedule=True,
)
async def refuse_for_a_mailboxs_rate(world: World) -> None:
    world.relay.behaviour.rcpt = lambda rcpt, _tries: (
        b"550 5.2.1 The user is receiving mail at a rate that prevents additional messages\r\n"
        if chosen(rcpt, 10)
        else None
    )
    await world.random_pause(3, 4)
    restore_relay(world)


@fault("the relay accepts emails and never replies", settings=SHORT_LIMITS, extra_seconds=8)
async def never_answer(world: World) -> None:
    world.relay.behaviour.dot = counted(world, After.SILENCE)
    await world.random_pause(4, 5)
    restore_relay(world)


@fault(
    "the relay accepts emails and drops the connection before it replies",
    settings=SHORT_REST,
    extra_seconds=4,
    in_random_schedule=True,
)
async def die_after_dot(world: World) -> None:
    world.relay.behaviour.dot = counted(world, After.DROP)
    await world.random_pause(2, 3)
    restore_relay(world)


@fault(
    "the relay loses emails and drops the connection before it replies",
    settings=SHORT_REST,
    extra_seconds=4,
    in_random_schedule=True,
)
async def lose_after_dot(world: World) -> None:
    world.relay.behaviour.dot = lambda rcpt, _tries: After.DROP_UNKEPT if chosen(rcpt, 20) else After.ACCEPT
    await world.random_pause(2, 3)
    restore_relay(world)


@fault(
    "at_most_once: the relay accepts emails and drops the connection before it replies",
    settings=SHORT_REST,
    fields={"delivery": "at_most_once"},
    allowed_statuses=("sent", "unknown"),
    extra_seconds=4,
)
async def die_after_dot_at_most_once(world: World) -> None:
    counting = counted(world, After.DROP)
    world.relay.behaviour.dot = counting
    await world.random_pause(2, 3)
    restore_relay(world)
    world.allowed_duplicates = 0  # a sender that has recorded its intent never sends again


@fault("the relay accepts one email per second on each connection", extra_seconds=3)
async def slow_down(world: World) -> None:
    """Senders hold no more work than before, since it waits in the ledger. They stay ready, and the metrics show that
    every connection is busy."""
    before = [resident(world, sender) for sender in SENDERS]
    world.relay.behaviour.seconds_per_email = 1.0
    await world.random_pause(8, 10)
    grown = max(resident(world, sender) - then for sender, then in zip(SENDERS, before, strict=True))
    if grown > MAX_GROWTH_BYTES:
        world.problems.append(f"a sender grew by {grown / 1e6:.0f} MB while the relay was slow")
    for sender in SENDERS:
        await world.expect_metric(
            sender, "vashsender_emails_in_flight", lambda value: CONNECTIONS <= value <= UNRECORDED_LIMIT
        )
        if (await world.health(sender))["relays"] != "ok":
            world.problems.append("a slow relay was reported as unusable")
    world.relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL


def resident(world: World, name: str) -> int:
    return int(psutil.Process(world.processes[name].pid).memory_info().rss)


@fault("the relay stops and starts again", settings=SHORT_REST, extra_seconds=5, in_random_schedule=True)
async def restart_relay(world: World) -> None:
    world.allowed_duplicates += len(SENDERS) * CONNECTIONS  # emails it received but did not reply to
    await asyncio.to_thread(world.relay.stop)
    await world.random_pause(2, 4)
    await asyncio.to_thread(world.relay.start)


def counted(world: World, answer: After) -> Callable[[str, int], bytes | After]:
    """Gives this answer to every twentieth recipient at the first try, and allows a duplicate for each."""

    def dot(rcpt: str, tries: int) -> bytes | After:
        if tries or not chosen(rcpt, 20):
            return After.ACCEPT
        world.allowed_duplicates += 1
        return answer

    return dot


def chosen(rcpt: str, one_in: int) -> bool:
    """True for one in `one_in` recipients, the same ones in every run."""
    return zlib.crc32(rcpt.encode()) % one_in == 0


def restore_relay(world: World) -> None:
    world.relay.behaviour = Behaviour(seconds_per_email=world.relay.behaviour.seconds_per_email)
