"""Unsubscribing: who a link was made for, and what it does."""

from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncConnection

from shared import logs
from shared.email_tokens import TOKEN
from shared.feedback.meaning import Found, Kind
from shared.ledger import late_reports, report_people, reports
from shared.ledger.forgetting.people import Forgotten
from shared.ledger.report_people import Person
from shared.ledger.reports import Incoming

log = logs.get()


async def subscriber(connection: AsyncConnection, secrets: Sequence[bytes], token: str) -> Person | Forgotten | None:
    """The person an unsubscribe link was made for. None if the token is damaged, or its recipient is no longer known.
    `secrets` are the signing keys."""
    if TOKEN.fullmatch(token):  # a mail token is no link: it stands in headers that others see
        return None
    person = await report_people.identify(connection, secrets, [token])
    return person or await report_people.forgotten(connection, secrets, [token])


async def unsubscribe(connection: AsyncConnection, person: Person | Forgotten) -> None:
    """Suppresses the address in the campaign's project, and counts the recipient as unsubscribed. May be repeated."""
    if isinstance(person, Forgotten):
        await late_reports.take(connection, [(person, Kind.UNSUBSCRIBED)])
        log.info("recipient.unsubscribed", campaign_id=str(person.campaign_id))
        return
    digest = sha256(f"link {person.recipient_id}".encode()).hexdigest()
    [outcome] = await reports.record(connection, [Incoming(Found(Kind.UNSUBSCRIBED), digest, "link", person)])
    if outcome.result == "recorded":
        log.info("recipient.unsubscribed", campaign_id=str(person.campaign_id))
