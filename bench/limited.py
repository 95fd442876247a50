"""Many campaigns of one email per second each, and one without a limit beside them.

Prints how many emails per second the limited ones reach together, and how soon the other one begins.
"""

import argparse
import asyncio
import os
import time

from bench.recorded import recorded
from tests.support.relay import RecordingRelay
from tests.support.waiting import until

MEASURED_SECONDS = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=100)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--database", default="postgresql", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    together, first = asyncio.run(run(options))
    print(
        f"{options.campaigns} campaigns at 1/s, {options.senders} sender(s), {options.database}, load"
        f" {os.getloadavg()[0]:.1f}: {together:.1f} emails/s together; first email of an unlimited campaign after"
        f" {first:.2f} s"
    )


async def run(options: argparse.Namespace) -> tuple[float, float]:
    """Emails per second of the limited campaigns together, and seconds until the first email of the other."""
    relay = RecordingRelay()
    async with recorded(options.database, options.senders, relay) as system:
        quick = await system.create(["quick@example.test"])
        slow = [await system.create(120, emails_per_second=1) for _ in range(options.campaigns)]
        for campaign in slow:
            await system.send(campaign)
        await until(lambda: len(relay.first_bytes) >= 5 * options.campaigns, 300)
        before = len(relay.first_bytes)
        await asyncio.sleep(MEASURED_SECONDS)
        together = (len(relay.first_bytes) - before) / MEASURED_SECONDS
        sent = time.monotonic()
        await system.send(quick)
        await until(lambda: "quick@example.test" in relay.copies, 120)
        first = next(email.first_byte_at for email in relay.received if email.rcpt == "quick@example.test") - sent
    return together, first


if __name__ == "__main__":
    main()
