"""Rolls up the batches of large campaigns that rest: see shared.ledger.rollups."""

from shared.ledger import rollups
from shared.ledger.database import Ledger

LOOK_SECONDS = 30.0
"""A campaign gets some hundred batches more meanwhile, which take a millisecond to add up."""


class Rollups:
    """Several dispatchers may do it: each takes batches that no other has locked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def tick(self) -> None:
        async with self._ledger.read() as connection:
            due = await rollups.due(connection)
        for campaign_id in due:
            while await rollups.roll_up(self._ledger, campaign_id) == rollups.BATCHES_AT_ONCE:
                pass
