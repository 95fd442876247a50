"""A sender that is stopped while it restarts itself in place stops."""

import asyncio
import signal

from shared.ledger.database import Ledger
from tests.conftest import ServiceFactory
from tests.support.relay import After, RecordingRelay
from tests.support.seeds import seed_campaign
from tests.support.waiting import wait_for


async def test_a_signal_ends_a_sender_that_was_about_to_restart(
    service_process: ServiceFactory, sqlite_url: str, relay: RecordingRelay
) -> None:
    """One email hangs at the relay, so the drain before the restart takes all its time."""
    relay.behaviour.dot = lambda rcpt, _tries: After.SILENCE if rcpt == "person-1@example.test" else After.ACCEPT
    ledger = Ledger(sqlite_url, pool_size=1)
    await seed_campaign(ledger, 2, batch_size=1)
    await ledger.close()
    settings = {
        "DATABASE_URL": sqlite_url,
        "AMQP_URL": "amqp://127.0.0.1:1/",  # no broker: the ledger is enough
        "RELAYS": relay.url,
        "RECYCLE_AFTER_BATCHES": "1",
        "DRAIN_SECONDS": "4",
        "TICKET_PATIENCE_SECONDS": "0",
        "CLOCK_SECONDS": "0.1",
    }
    sender = service_process("sender", {f"VASHSENDER_{name}": value for name, value in settings.items()})
    await asyncio.to_thread(wait_for, lambda: "service.stopping" in sender.log_text())
    sender.send_signal(signal.SIGTERM)
    await sender.wait_ended_cleanly()
    assert "service.restarting" not in sender.log_text()
    assert sender.log_text().count("service.started") == 1
