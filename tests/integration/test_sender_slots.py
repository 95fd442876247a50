"""A sender's slots: an email begins only in one that is valid at that moment; one that is not used is returned."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from services.sender.held_batch import Email, HeldBatch
from services.sender.limits import Limits
from services.sender.metrics import SenderMetrics
from shared.ledger import rate_limits
from shared.ledger.database import Ledger
from shared.ledger.rate_limits import Limit, tolerance
from shared.settings import SenderSettings
from tests.support.held import email_of, held_batch
from tests.support.ledger import statements_of

RELAY = "mx.test"
RATE = 10.0


@pytest.fixture
async def limits(ledger: Ledger) -> AsyncIterator[Limits]:
    """Runs, and knows no limit yet."""
    limits = Limits(ledger, SenderMetrics(CollectorRegistry(), SenderSettings()), lambda: None)
    run = asyncio.create_task(limits.run())
    yield limits
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run


async def limited(ledger: Ledger, limits: Limits, **terms: float) -> HeldBatch:
    """A batch whose campaign's project has this limit."""
    held = held_batch()
    async with ledger.write() as connection:
        await rate_limits.put_all(connection, held.scopes[1], **terms)  # type: ignore[arg-type]
    await limits.learn(held.scopes)
    return held


async def limit_of(ledger: Ledger, held: HeldBatch) -> Limit:
    async with ledger.read() as connection:
        return (await rate_limits.read(connection, held.scopes))[held.scopes[1]]


async def begin(limits: Limits, email: Email) -> bool:
    """Asks as a connection does: again after each awaited yes."""
    async with asyncio.timeout(30):
        while not isinstance(answer := limits.begin(email, RELAY, lambda: True), bool):
            if not await answer:
                return False
    return answer


async def test_limits_are_read_again_for_the_next_batch_only_if_they_are_old(
    ledger: Ledger, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await limited(ledger, limits, emails_per_second=RATE)
    with statements_of(ledger) as executed:
        await limits.learn(held.scopes)
        assert not executed
        monkeypatch.setattr("services.sender.limits.FRESH_SECONDS", 0.0)
        await limits.learn(held.scopes)
        assert executed


async def test_limits_are_read_again_once_no_batch_of_their_campaign_is_held(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_second=RATE)
    await limits.refresh([])
    await limits.learn(held.scopes)
    assert limits.begin(email_of(held), RELAY, lambda: True) is not True, "it waits for a slot"


async def test_an_email_without_a_limit_begins_at_once(limits: Limits) -> None:
    held = held_batch()
    await limits.learn(held.scopes)
    email = email_of(held)
    assert limits.begin(email, RELAY, lambda: True) is True
    assert email.is_timed is False


async def test_an_email_begins_when_its_slot_does(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_second=RATE)
    emails = [email_of(held) for _ in range(4)]
    assert all([await begin(limits, email) for email in emails])
    assert all(email.is_timed for email in emails)


async def test_a_slot_that_has_passed_while_the_process_stood_still_is_not_used(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_second=RATE)
    email = email_of(held)
    answer = limits.begin(email, RELAY, lambda: True)
    assert isinstance(answer, asyncio.Future)
    assert await answer is True
    time.sleep(tolerance(RATE) + 0.01)  # noqa: ASYNC251 - the process stands still between the slot and the write
    assert isinstance(limits.begin(email, RELAY, lambda: True), asyncio.Future), "it waits for another slot"
    limits.ended(email)


async def test_slots_that_are_not_used_count_no_longer_under_a_cap(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_day=3)
    first, given_back = email_of(held), email_of(held)
    assert await begin(limits, first)
    answer = limits.begin(given_back, RELAY, lambda: True)
    if isinstance(answer, asyncio.Future):
        await answer
        limits.ended(given_back)
        begun = 1
    else:
        begun = 2  # a slot was left from the first reservation
    async with asyncio.timeout(30):
        while (await limit_of(ledger, held)).day_count != begun:  # noqa: ASYNC110 - another task writes it
            await asyncio.sleep(0.02)


async def test_a_cap_that_is_used_up_gives_no_slot_until_it_is_raised(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_day=2)
    assert [await begin(limits, email_of(held)) for _ in range(2)] == [True, True]
    assert await begin(limits, email_of(held)) is False
    async with ledger.write() as connection:
        await rate_limits.put_all(connection, held.scopes[1], emails_per_day=3)
    async with asyncio.timeout(30):
        while not await begin(limits, email_of(held)):
            await limits.refresh([held])
    assert (await limit_of(ledger, held)).day_count == 3


async def test_an_email_that_may_no_longer_begin_gets_no_slot(ledger: Ledger, limits: Limits) -> None:
    held = await limited(ledger, limits, emails_per_second=RATE)
    answer = limits.begin(email_of(held), RELAY, lambda: False)
    assert isinstance(answer, asyncio.Future)
    assert await answer is False
