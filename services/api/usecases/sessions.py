"""Sessions of the page: when they were used."""

from shared.ledger import sessions
from shared.ledger.database import Ledger, is_unavailable


async def note_seen(ledger: Ledger, session_id: str, seconds_unseen: float) -> None:
    """Notes a request, if none was noted lately. A database that takes no writes keeps no one out."""
    if seconds_unseen < sessions.SEEN_SECONDS:
        return
    try:
        async with ledger.write() as connection:
            await sessions.note_seen(connection, session_id)
    except Exception as error:
        if not is_unavailable(error):
            raise
