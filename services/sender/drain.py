"""The end of a sender process."""

from services.sender.engines import Engines
from services.sender.feed import Feed
from services.sender.heartbeat import Heartbeat
from services.sender.provider_gate import ProviderGate
from services.sender.worker import Worker


class Drain:
    """Finishes what is in flight, records it, and gives the rest back."""

    def __init__(
        self,
        worker: Worker,
        engine: Engines,
        feed: Feed,
        gate: ProviderGate,
        heartbeat: Heartbeat,
        seconds: float,
    ) -> None:
        self._worker = worker
        self._engine = engine
        self._feed = feed
        self._gate = gate
        self._heartbeat = heartbeat
        #: How long emails in flight may take to finish.
        self._seconds = seconds

    async def run(self) -> None:
        """No email starts from now on. Returns when every batch was given back, or no time is left."""
        self._worker.drain()
        self._heartbeat.beat_soon()
        await self._engine.drain(self._seconds)
        await self._worker.finish()
        await self._gate.give_back()
        await self._heartbeat.beat()
        self._feed.close()
