"""What the dispatcher executes for a campaign from start to end; here for one that does not exist."""

from functools import partial

from services.dispatcher import closing, lifecycle
from services.dispatcher.history import History
from services.dispatcher.survey import look_at
from shared.ledger import batches, breakers, rate_limits, spread, timeline
from shared.ledger.counts import counts_of
from shared.ledger.database import Ledger
from shared.ledger.prewarm import NO_ID


async def dispatch_nothing(ledger: Ledger) -> None:
    """For `prewarm`."""
    await look_at(ledger, [NO_ID], {})
    await rate_limits.read_alone(ledger, [rate_limits.project_scope(NO_ID)])
    async with ledger.read() as connection:
        await counts_of(connection, [NO_ID])
    await breakers.suspects(ledger, 1.0, [NO_ID])
    await spread.suspects(ledger, [NO_ID])
    async with ledger.write() as connection:
        await lifecycle.LOCK_QUEUED.of(connection, [NO_ID])
        await lifecycle.begin(connection, {NO_ID: None})
        await timeline.record(connection, NO_ID, "", "")  # adds nothing: as if its last entry had this kind
    await ledger.write_at_once(partial(batches.cut, campaign_id=NO_ID, after=0, batches=1, emails=1, rate=None))
    await closing.close_small(ledger, [NO_ID])
    await History(ledger, lambda: [NO_ID]).tick()
