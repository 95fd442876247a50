"""Keys: when they were used."""

from shared.ledger import keys
from shared.ledger.database import Ledger, is_unavailable
from shared.ledger.keys import Key


async def note_use(ledger: Ledger, key: Key) -> None:
    """Notes that a key is used, if that was not noted lately. A database that takes no writes keeps no one out."""
    if not key.is_use_due:
        return
    try:
        async with ledger.write() as connection:
            await keys.note_use(connection, key.id)
    except Exception as error:
        if not is_unavailable(error):
            raise
