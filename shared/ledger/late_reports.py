"""Reports about recipients of forgotten campaigns: nothing is recorded, but who wants no more gets no more."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.feedback.meaning import Kind
from shared.ledger.forgetting.people import Forgotten
from shared.ledger.suppressions import Entry, Reason, suppress

REASONS: Mapping[Kind, Reason] = {Kind.UNSUBSCRIBED: "unsubscribed", Kind.COMPLAINED: "complained"}
"""The kinds from which something follows."""


async def take(connection: AsyncConnection, reports: Iterable[tuple[Forgotten, Kind]]) -> None:
    """Suppresses those who unsubscribe or complain: by their hash, if their address is deleted."""
    entries: defaultdict[UUID, dict[str, Entry]] = defaultdict(dict)
    for person, kind in reports:
        if kind in REASONS:
            entry = Entry(person.address, REASONS[kind], campaign_id=person.campaign_id)
            entries[person.project_id].setdefault(person.address.key, entry)
    for project_id, of_project in sorted(entries.items()):
        await suppress(connection, project_id, [of_project[key] for key in sorted(of_project)])
