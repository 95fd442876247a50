"""What a sender executes for a batch from claim to end; here for one that does not exist."""

from collections.abc import Collection
from contextlib import suppress

from sqlalchemy.exc import NoResultFound

from services.sender.db import campaigns, claims
from services.sender.db.claims import Claim
from services.sender.db.record import record
from services.sender.db.worklist import read_worklist
from shared.ledger import domains, rate_limits
from shared.ledger.database import Ledger
from shared.ledger.prewarm import NO_BATCH, NO_ID
from shared.ledger.rate_limits import campaign_scope, project_scope

_NO_CLAIM = Claim(
    batch_id=NO_BATCH,
    campaign_id=NO_ID,
    generation=0,
    first_id=0,
    last_id=0,
    size=0,
    dated_at=0.0,
    is_newly_dated=False,
    starts_in_seconds=0.0,
    is_limited=False,
)


async def send_nothing(ledger: Ledger, relay_scopes: Collection[str]) -> None:
    """For `prewarm`. `relay_scopes`: of the limits of the relays."""
    await claims.claim(ledger, NO_BATCH, 0, "", 0.0)
    with suppress(NoResultFound):
        await campaigns.read(ledger, NO_ID)
    with suppress(NoResultFound):
        await campaigns.read_content(ledger, NO_ID)
    await domains.owner_alone(ledger, "nothing.invalid")
    await rate_limits.read_alone(ledger, {*relay_scopes, campaign_scope(NO_ID), project_scope(NO_ID)})
    await read_worklist(ledger, _NO_CLAIM, NO_ID, 0, 1)
    await claims.look(ledger, [NO_BATCH], {NO_ID: [""]})
    await campaigns.set_blocked_by(ledger, NO_ID, None)
    await record(ledger, [], 0.0)
    await claims.let_go(ledger, _NO_CLAIM, keep_date=False)
