"""A campaign at one provider that takes some emails at a time; all the others wait.

Prints how many emails per second began, beside how many the limit allows at the relay's speed, and the most in flight.
`--kill` kills one of the senders at a third of the campaign, whose supervisor restarts it; `--join` starts one more.
"""

import argparse
import asyncio
import os

from bench.recorded import recorded
from tests.support.limits import most_at_once
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

SECONDS = 600.0
BUSY_SHARE = 0.9
"""The last emails of a campaign are too few to fill every sender's share: they do not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emails", type=int, default=1600)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.08, help="seconds that the relay takes for an email")
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--join", action="store_true")
    parser.add_argument("--database", default="postgresql", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    print(asyncio.run(run(options)))


async def run(options: argparse.Namespace) -> str:
    """One campaign, and what came of it."""
    relay = RecordingRelay()
    relay.behaviour.seconds_per_email = options.latency
    settings = {
        "provider_limits": f"example.test={options.in_flight}",
        "smtp_connections": str(2 * options.in_flight),
        "batch_size": "100",
    }
    async with recorded(options.database, options.senders, relay, **settings) as system:
        campaign = await system.create(options.emails)
        await system.send(campaign)
        await _trouble(system, relay, options)
        await system.wait_closed(campaign, SECONDS)
    return _told(relay, options)


async def _trouble(system: System, relay: RecordingRelay, options: argparse.Namespace) -> None:
    if not (options.kill or options.join):
        return
    await until(lambda: len(relay.received) >= options.emails / 3, SECONDS)
    if options.kill:
        system.processes["sender-1"].kill()
        system.processes["sender-1"].launch()
    if options.join:
        await asyncio.to_thread(system.launch, "sender", f"sender-{options.senders + 1}")


def _told(relay: RecordingRelay, options: argparse.Namespace) -> str:
    begun = sorted(email.first_byte_at for email in relay.received)
    busy = begun[: int(len(begun) * BUSY_SHARE)]
    rate = len(busy) / (busy[-1] - busy[0])
    allowed = options.in_flight / options.latency
    seconds = [sum(1 for at in begun if start <= at < start + 1) for start in _seconds(busy)]
    return (
        f"{options.emails} emails, {options.in_flight} in flight, {options.latency:g} s each, {options.senders}"
        f" sender(s){', one killed' if options.kill else ''}{', one joins' if options.join else ''},"
        f" {options.database}, load {os.getloadavg()[0]:.1f}: {rate:.1f}/s of {allowed:.0f}/s ({rate / allowed:.0%}),"
        f" all after {begun[-1] - begun[0]:.1f} s; at most {most_at_once(relay.received)} at once;"
        f" begun in each second: {seconds}"
    )


def _seconds(moments: list[float]) -> list[float]:
    return [moments[0] + second for second in range(int(moments[-1] - moments[0]) + 1)]


if __name__ == "__main__":
    main()
