"""Many campaigns of one email per second each, and one without a limit beside them.

Prints how many emails per second the limited ones reach together, and how soon the other one begins.
"""

import argparse
import asyncio
import os
import time
from pathlib import Path

from bench.campaign import folder, ledger_url, private_broker
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from shared.ledger import migrate
from tests.support.relay import RecordingRelay
from tests.support.system import installation

POLL_SECONDS = 0.02
MEASURED_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=100)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--database", default="postgresql", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    with private_broker() as broker, folder() as work, ledger_url(options.database, work) as url:
        migrate.upgrade(url)
        together, first = asyncio.run(run(work, url, broker, options))
    print(
        f"{options.campaigns} campaigns at 1/s, {options.senders} sender(s), {options.database}, load"
        f" {os.getloadavg()[0]:.1f}: {together:.1f} emails/s together; first email of an unlimited campaign after"
        f" {first:.2f} s"
    )


async def run(work: Path, url: str, broker: PrivateBroker, options: argparse.Namespace) -> tuple[float, float]:
    """Emails per second of the limited campaigns together, and seconds until the first email of the other."""
    relay = RecordingRelay()
    relay.start()
    try:
        async with installation(work, url, broker.amqp_url(ADMIN), broker.amqp_url(SERVICES), relay) as system:
            await system.start(options.senders)
            quick = await system.create(["quick@example.test"])
            slow = [await system.create(120, emails_per_second=1) for _ in range(options.campaigns)]
            for campaign in slow:
                await system.send(campaign)
            await until(relay, 5 * options.campaigns)
            before = len(relay.first_bytes)
            await asyncio.sleep(MEASURED_SECONDS)
            together = (len(relay.first_bytes) - before) / MEASURED_SECONDS
            sent = time.monotonic()
            await system.send(quick)
            async with asyncio.timeout(120):
                while "quick@example.test" not in relay.copies:  # noqa: ASYNC110 - another process sends
                    await asyncio.sleep(POLL_SECONDS)
            first = next(email.first_byte_at for email in relay.received if email.rcpt == "quick@example.test") - sent
    finally:
        relay.stop()
    return together, first


async def until(relay: RecordingRelay, emails: int) -> None:
    async with asyncio.timeout(300):
        while len(relay.first_bytes) < emails:  # noqa: ASYNC110 - another process sends
            await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
