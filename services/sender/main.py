"""The sender: claims released batches, delivers their emails, records each result. Any number may run."""

from services.sender.batch_monitor import BatchMonitor
from services.sender.campaigns import Campaigns
from services.sender.drain import Drain
from services.sender.engines import Engines
from services.sender.feed import Feed
from services.sender.heartbeat import Heartbeat
from services.sender.held_batches import HeldBatches
from services.sender.limits import Limits
from services.sender.metrics import SenderMetrics
from services.sender.observer import SenderObserver
from services.sender.provider_gate import ProviderGate
from services.sender.recorder import Recorder
from services.sender.sending_facts import LOOK_SECONDS, SendingFacts
from services.sender.slot_lock import SlotLock
from services.sender.smtp.config import engine_config
from services.sender.worker import Worker
from shared import topology
from shared.events import BatchReleased
from shared.messages.dkim import load_signers
from shared.process import Process
from shared.relays.url import relays_of
from shared.settings import SenderSettings


async def serve(process: Process[SenderSettings]) -> None:
    """Builds the parts, subscribes them to their events, and runs them until the process stops."""
    settings, ledger = process.settings, process.ledger
    with SlotLock(settings.var_dir / "run", settings.slot) as slot:
        owner = slot.owner or process.instance
        metrics = SenderMetrics(process.metrics.registry, settings)
        # Less than what may be unrecorded, so that emails go on while a group is being recorded.
        held_batches = HeldBatches(metrics, group_size=max(1, settings.unrecorded_limit * 3 // 4))
        relays, config = relays_of(settings), engine_config(settings)
        engine = Engines(relays, config, SenderObserver(metrics))
        limits = Limits(ledger, metrics, held_batches.wake_feed, relays, config.providers, engine.hold)
        gate = ProviderGate(ledger, owner, limits, settings.lease_seconds, held_batches)
        signers = load_signers(settings.dkim_dir)
        campaigns = Campaigns(ledger, settings, signers, metrics, held_batches.wake_feed)
        feed = Feed(settings, held_batches, limits, gate, engine.group_of, campaigns.contents, engine.open_connections)
        worker = Worker(process, campaigns, held_batches, limits, owner, engine.blocked_reason)
        monitor = BatchMonitor(settings, ledger, engine, held_batches, limits)
        heartbeat = Heartbeat(settings, process.bus, engine, held_batches, owner)
        await limits.set_by_urls()
        if slot.owner is not None:
            await worker.resume()
        process.bus.subscribe(topology.EMAIL, BatchReleased, worker.on_ticket, prefetch=settings.batches_in_hand)
        process.health.checks["relays"] = monitor.check_relays
        await worker.prewarm()
        await process.run(
            engine.run(feed),
            worker.begin(),
            Recorder(ledger, held_batches, settings.lease_seconds, feed.refusals, feed.spread, engine.rest).run(),
            limits.run(),
            gate.run(),
            campaigns.contents.run(),
            monitor.run(),
            heartbeat.run(),
            process.clock(worker.tick, settings.clock_seconds),
            process.clock(SendingFacts(ledger, signers, relays).tick, LOOK_SECONDS, may_last=True),
            drain=Drain(worker, engine, feed, gate, heartbeat, settings.drain_seconds).run,
        )
