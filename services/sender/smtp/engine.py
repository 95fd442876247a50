"""The delivery engine: connections pull emails from a source, relays fail over, every email gets one outcome."""

import asyncio
from collections.abc import Callable, Container, Sequence

from services.sender.smtp.config import EngineConfig
from services.sender.smtp.contract import Job, RelayStatus, Source
from services.sender.smtp.dispatch import Dispatch
from services.sender.smtp.observe import Observer, Silent
from services.sender.smtp.pool import Pool
from shared.relays.config import RelayConfig

LONGEST_TICK_SECONDS = 0.25  # deadlines are kept to within this
SHORTEST_TICK_SECONDS = 0.01
SPURIOUS_PAUSE_SECONDS = 0.02  # before a source is asked again that said it was ready and had nothing


class Engine:
    """Delivers the emails of a source through the first relay that is available.

    `run` works until `drain` has finished or it is cancelled; it runs once. Emails are taken only while a relay is
    available. One that fails before its body has left is tried on another relay at once.
    """

    def __init__(self, relays: Sequence[RelayConfig], config: EngineConfig, observer: Observer | None = None) -> None:
        self._config = config
        self._observer: Observer = observer or Silent()
        self._pool = Pool(relays, self._config, self._observer)
        self._dispatch: Dispatch | None = None
        self._stop = asyncio.Event()
        shortest = min(self._config.email_soft_seconds, self._config.rest_seconds)
        self._idle_tick_seconds = max(SHORTEST_TICK_SECONDS, min(LONGEST_TICK_SECONDS, shortest / 4))
        self._tick_seconds = max(SHORTEST_TICK_SECONDS, min(self._idle_tick_seconds, self._config.stall_seconds / 4))

    async def run(self, source: Source) -> None:
        """Deliver until drained or cancelled. Every email that was taken has been reported when this returns."""
        dispatch = self._dispatch = Dispatch(source, self._pool, self._config, self._observer)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._tick_seconds, self._tick, loop, dispatch)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._pool.start(dispatch, tasks)
                feeder = tasks.create_task(self._feed(source, dispatch))
                try:
                    await self._stop.wait()
                finally:
                    dispatch.stop_taking()
                    self._pool.retire_all()
                    feeder.cancel()
        finally:
            self._timer.cancel()
            self._pool.abort_all("the engine has stopped")
            dispatch.report_accepted()

    async def drain(self, seconds: float) -> None:
        """Take no more emails; give those in flight `seconds` to finish, then abort them; then let `run` return."""
        if self._dispatch is not None:
            self._dispatch.stop_taking()
            self._pool.retire_all()
            try:
                async with asyncio.timeout(seconds):
                    await self._until_no(self._pool.in_flight, self._dispatch.news)
            except TimeoutError:
                self._pool.abort_all("the drain is over")
            try:
                async with asyncio.timeout(self._config.quit_seconds):
                    await self._until_no(self._pool.connections, self._dispatch.news)
            except TimeoutError:
                self._pool.abort_all("no reply to QUIT")
        self._stop.set()

    def abort(self, jobs: Container[Job], why: str) -> None:
        """Stop with these emails now. Each is reported before this returns, as ambiguous if its body is out."""
        if self._dispatch is not None:
            self._pool.give_up(jobs, why)
            self._dispatch.give_up(jobs, why)  # including those that have just lost their connection

    def rest(self, relay: str) -> None:
        """Do not use this relay for a while: it refuses nearly every recipient."""
        self._pool.rest(relay)

    def hold(self, relay: str, seconds: float, why: str) -> None:
        """Let a relay rest for these seconds, because a cap on its emails is used up; 0 if that was lifted."""
        now = asyncio.get_running_loop().time()
        self._pool.by_name[relay].hold(now + seconds, why, now)
        self._pool.choose()

    def open_connections(self) -> int:
        """Open connections to all relays."""
        return len(self._pool.connections())

    def status(self) -> list[RelayStatus]:
        """The state of every relay, in order of preference."""
        return self._pool.status()

    def blocked_reason(self) -> str | None:
        """Why no email can leave now, in a sentence; None if a relay is available."""
        return self._pool.blocked_reason()

    async def _feed(self, source: Source, dispatch: Dispatch) -> None:
        """Wake connections when the source has emails again.

        It waits for `ready` first and asks for an email then: nothing is missed if the source only wakes its waiters.
        """
        dispatch.hungry.set()
        while True:
            await dispatch.hungry.wait()
            ready = asyncio.ensure_future(source.ready())
            try:
                await asyncio.sleep(0)
                dispatch.hungry.clear()
                dispatch.offer()
                if dispatch.hungry.is_set():
                    if ready.done():
                        await asyncio.sleep(SPURIOUS_PAUSE_SECONDS)
                    await ready
            finally:
                ready.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, dispatch: Dispatch) -> None:
        """The only timer of the engine. Slower while no email is in flight, since none can stall."""
        seconds = self._tick_seconds if self._pool.in_flight() else self._idle_tick_seconds
        self._timer = loop.call_later(seconds, self._tick, loop, dispatch)
        if not dispatch.draining:
            self._pool.tick(loop.time())
            dispatch.tick()
        else:
            self._pool.watch(loop.time())

    @staticmethod
    async def _until_no(something: Callable[[], object], news: asyncio.Event) -> None:
        while something():
            news.clear()
            await news.wait()
