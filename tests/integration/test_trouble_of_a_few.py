"""Problems of a few recipients (hanging or deferred emails) do not slow down the others."""

import pytest

from tests.support.relay import After, RecordingRelay
from tests.support.system import System

RECIPIENTS = 1200
BATCH_SIZE = 100
TROUBLED = {f"person-{number}@example.test" for number in range(0, RECIPIENTS, BATCH_SIZE)}


@pytest.fixture
def system(system: System) -> System:
    system.settings["batch_size"] = str(BATCH_SIZE)
    return system


async def test_batches_with_a_hanging_email_do_not_block_others(system: System, relay: RecordingRelay) -> None:
    """One email in each of twelve batches hangs longer than this test, with a capacity of two batches."""
    relay.behaviour.dot = lambda rcpt, _tries: After.SILENCE if rcpt in TROUBLED else After.ACCEPT
    await system.start(senders=1)
    campaign = await system.create(RECIPIENTS)
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["counts"]["sent"] == RECIPIENTS - len(TROUBLED))
    assert answer["counts"]["pending"] == len(TROUBLED)
    assert answer["status"] == "sending"
    taken = await system.processes["sender-1"].metric("vashsender_batches_in_hand")
    assert taken == 0, "a batch that only waits for replies takes no slot"


@pytest.mark.more
async def test_retries_that_are_not_due_take_no_capacity(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.dot = lambda rcpt, tries: b"451 4.2.0 later\r\n" if rcpt in TROUBLED and not tries else After.ACCEPT
    await system.start(senders=1)
    campaign = await system.create(RECIPIENTS, retry_delay_seconds=20)
    await system.send(campaign)
    answer = await system.wait_until(campaign, lambda now: now["counts"]["sent"] == RECIPIENTS - len(TROUBLED))
    assert answer["counts"]["deferred"] == len(TROUBLED), "fresh mail was all out before the first retry"
    await system.wait_closed(campaign)
    account = await system.reconcile(campaign)
    assert (account.counts["sent"], account.lost, account.duplicated) == (RECIPIENTS, 0, 0)
