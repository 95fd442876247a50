"""What the API executes for a campaign that is sent and then asked for; here for one that does not exist."""

from contextlib import suppress

from services.api.usecases import campaign_row, summaries
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import NotFoundError
from services.api.usecases.quotas import Limits
from services.api.usecases.tenant import Tenant
from shared.ledger import campaigns, domains, instances, keys, projects, rate_limits
from shared.ledger.database import Ledger
from shared.ledger.keys import Key
from shared.ledger.prewarm import NO_ID
from shared.ledger.states import CampaignStatus

_NO_KEY = Key(
    id=NO_ID,
    project_id=NO_ID,
    project="",
    name="",
    created_at=0.0,
    revoked_at=None,
    expires_at=None,
    lives_seconds=None,
    last_used_at=None,
    scopes=frozenset(),
    sender_domains=None,
    is_use_due=False,
)
NO_TENANT = Tenant(_NO_KEY, needs_own_domain=False, limits=Limits(0, 0, 0), hash_roots=())
_NOTHING = CampaignRef(NO_TENANT, NO_ID)


async def accept_nothing(ledger: Ledger) -> None:
    """For `prewarm`."""
    with suppress(NotFoundError):
        await campaign_row.find_with_texts(ledger, _NOTHING)
    await domains.owner_alone(ledger, "nothing.invalid")
    with suppress(NotFoundError):
        await summaries.show_alone(ledger, _NOTHING)
    await keys.find_alone(ledger, f"vs_{'A' * 43}")
    async with ledger.write() as connection:
        with suppress(NotFoundError):
            await campaign_row.lock(connection, _NOTHING)
        await campaign_row.require_no_import(connection, NO_ID, "send")
        await domains.owner(connection, "nothing.invalid")
        await projects.lock(connection, NO_ID)
        await campaigns.move(connection, NO_ID, CampaignStatus.QUEUED, scheduled_at=None, deliver_by=0.0)
        await rate_limits.read_relays_and(connection, rate_limits.project_scope(NO_ID))
        await instances.relays(connection)
        with suppress(NotFoundError):
            await summaries.summary(connection, _NOTHING)
