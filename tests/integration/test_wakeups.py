"""The ledger decides, events wake: a campaign runs to its end on events alone, and on the clock alone."""

from shared import topology
from tests.support.broker import BrokerVhost
from tests.support.relay import After, RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

HOUR = "3600"


async def wakeups(system: System, cause: str) -> float:
    sample = f'vashsender_wakeups_total{{cause="{cause}"}}'
    return sum([await process.metric(sample) for process in system.processes.values()])


async def test_a_campaign_ends_on_events_alone(system: System) -> None:
    """With the clock slowed to an hour and no faults."""
    system.settings |= {"clock_seconds": HOUR, "ticket_patience_seconds": HOUR}
    await system.start()
    campaign = await system.create(3000)
    by_clock = await wakeups(system, "clock")
    await system.send(campaign)
    answer = await system.wait_closed(campaign)
    assert answer["status"] == "finished"
    account = await system.reconcile(campaign)
    assert (account.counts["sent"], account.lost, account.duplicated) == (3000, 0, 0)
    assert await wakeups(system, "event") > 0
    assert await wakeups(system, "clock") == by_clock


async def test_a_campaign_ends_on_the_clock_alone(
    system: System, broker_vhost: BrokerVhost, relay: RecordingRelay
) -> None:
    """With every event dropped before it reaches a queue."""
    for queue in topology.QUEUES:
        broker_vhost.unbind(topology.EXCHANGE, queue.name)
    system.settings |= {"clock_seconds": "0.3", "ticket_patience_seconds": "0.3"}
    relay.behaviour.dot = lambda rcpt, tries: (
        b"451 4.2.0 later\r\n" if rcpt == "person-7@example.test" and not tries else After.ACCEPT
    )
    for service in ("api", "dispatcher", "watchdog"):
        system.launch(service)
    system.launch("sender", "sender-1")
    await system.processes["api"].wait_health("/health/live", 200)
    campaign = await system.create(1200, retry_delay_seconds=1)
    await system.send(campaign)
    answer = await system.wait_closed(campaign)
    assert answer["status"] == "finished"
    account = await system.reconcile(campaign)
    assert (account.counts["sent"], account.lost, account.duplicated) == (1200, 0, 0)
    assert await wakeups(system, "event") == 0
    assert await wakeups(system, "clock") > 0


async def test_without_heartbeats_mail_still_flows_but_no_sender_is_known(
    system: System, broker_vhost: BrokerVhost
) -> None:
    """Only heartbeats tell the capacity of senders, and so the window, and which senders are alive."""
    await system.start(senders=2)
    dispatcher = system.processes["dispatcher"]
    first = await system.create(500)
    await system.send(first)
    await system.wait_closed(first)

    async def both_are_listed() -> bool:  # the campaign can be done before the watchdog has noted a first heartbeat
        async with system.client() as client:
            known = (await client.get("/services")).json()["data"]
        return len([service for service in known if service["service"] == "sender"]) == 2

    await until(both_are_listed)

    async def all_are_known() -> bool:  # the dispatcher reads it every 5 s
        return await dispatcher.metric("vashsender_live_slots") == 4

    await until(all_are_known)

    for process in list(system.processes.values()):
        await process.stop()
    broker_vhost.unbind(topology.EXCHANGE, topology.HEARTBEATS)
    system.settings |= {"instance_lost_seconds": "0.5"}
    for service in ("api", "dispatcher", "watchdog"):
        system.launch(service)
    system.launch("sender", "sender-1")
    await system.processes["api"].wait_ready()
    second = await system.create([f"late-{number}@example.test" for number in range(2000)])
    await system.send(second)
    answer = await system.wait_closed(second)
    assert answer["counts"]["sent"] == 2000
    assert await system.processes["dispatcher"].metric("vashsender_live_slots") == 0
