"""The sender: wakes on `batch.released`, delivers the batch, says `batch.finished`. Any number may run."""

import os
import sys
from contextlib import ExitStack

from services.sender.campaigns import Campaigns
from services.sender.dkim import load_signers
from services.sender.feed import Feed
from services.sender.heartbeat import Heart
from services.sender.in_hand import InHand
from services.sender.lookout import Lookout
from services.sender.metrics import SenderMetrics
from services.sender.observer import SenderObserver
from services.sender.recorder import Recorder
from services.sender.slot import Slot
from services.sender.smtp.config import engine_config
from services.sender.smtp.engine import Engine
from services.sender.worker import Worker
from shared import logs, process, topology
from shared.events import BatchReleased
from shared.process import Process
from shared.relays.url import relays_of
from shared.settings import SenderSettings

log = logs.get()


async def sender(proc: Process[SenderSettings]) -> None:
    """Wires the parts together and runs until the process is told to stop."""
    settings = proc.settings
    relays = relays_of(settings)
    recycling = False
    with ExitStack() as stack:
        owner = proc.instance
        slot = None
        if settings.slot:
            slot = stack.enter_context(Slot(settings.var_dir / "run", settings.slot))
            owner = slot.owner or owner
        metrics = SenderMetrics(proc.metrics.registry)
        metrics.slots.set(settings.batches_in_hand)
        metrics.connections_limit.set(settings.smtp_connections)
        in_hand = InHand(metrics)
        feed = Feed(settings, in_hand, lambda: engine.open_connections())
        engine = Engine(relays, engine_config(settings), observer=SenderObserver(metrics))
        campaigns = Campaigns(
            proc.ledger,
            public_url=settings.public_url,
            secret=settings.secret_keys[0],
            signers=load_signers(settings.dkim_dir),
        )
        worker = Worker(
            settings,
            proc.ledger,
            proc.bus,
            campaigns,
            in_hand,
            owner,
            proc.metrics,
            blocked=lambda: engine.blocked_reason() is not None,
        )
        heart = Heart(
            proc.bus,
            worker,
            engine,
            in_hand,
            owner=owner,
            slot=settings.slot,
            slots=settings.batches_in_hand,
            seconds=settings.heartbeat_seconds,
        )
        proc.bus.subscribe(topology.EMAIL, BatchReleased, worker.on_ticket, prefetch=settings.batches_in_hand)
        proc.health.checks["relays"] = lambda: _relays_check(engine)

        async def clock_turn() -> None:
            await worker.clock_turn()
            nonlocal recycling
            if settings.recycle_after_batches and worker.batches_done >= settings.recycle_after_batches:
                recycling = True
                proc.stopping.set()

        async def drain() -> None:
            worker.stop("this process is stopping")
            heart.beat_now.set()
            await engine.drain(settings.drain_seconds)
            await worker.finish()
            await heart.beat()
            feed.close()

        given_back = await worker.take_up() if slot is not None and slot.owner else []

        async def tell_given_back() -> None:
            await proc.bus.connected.wait()
            for event in given_back:
                await proc.bus.publish(event)

        await proc.run(
            tell_given_back(),
            engine.run(feed),
            Recorder(proc.ledger, in_hand, settings.lease_seconds).run(),
            Lookout(settings, proc.ledger, engine, in_hand).run(),
            proc.clock(clock_turn, settings.clock_seconds),
            heart.run(),
            drain=drain,
        )
    if recycling and not proc.told_to_stop:
        # In place: no supervisor counts it as a crash, and the slot is free again for the same name.
        log.info("sender.recycled", batches=worker.batches_done)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted


async def _relays_check(engine: Engine) -> str:
    return engine.blocked_reason() or ""


def main() -> None:
    process.main("sender", SenderSettings, sender)
