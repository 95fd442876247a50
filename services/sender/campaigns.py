"""What a sender knows of a campaign: frozen by `send`, so it is read once and kept."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from services.sender.dkim import DkimSigner
from services.sender.message import Attachment, CampaignHeaders, MessageBuilder
from services.sender.results import RetryPolicy
from shared.content import CampaignContent
from shared.ledger.database import Ledger
from shared.ledger.models import Campaign, Project
from shared.templates import compile_content
from shared.unsubscribe import make_token

KEPT = 32
"""Campaigns whose compiled messages are kept; the window holds few at a time."""


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """One campaign, ready to make emails of."""

    id: UUID
    project_id: UUID
    envelope_from: str
    builder: MessageBuilder
    signer: DkimSigner | None
    retries: RetryPolicy
    unsubscribe_url: Callable[[int], str]

    def date(self, moment: float) -> str:
        """The Date header of a batch: of its first claim, so that every attempt carries the same (RFC 5322, 3.3)."""
        return formatdate(moment, usegmt=False)


class Campaigns:
    """The campaigns this process sends for."""

    def __init__(self, ledger: Ledger, *, public_url: str, secret: bytes, signers: Mapping[str, DkimSigner]) -> None:
        self._ledger = ledger
        self._public_url = public_url
        self._secret = secret
        self._signers = signers
        self._kept: OrderedDict[UUID, CampaignFacts] = OrderedDict()

    async def get(self, campaign_id: UUID) -> CampaignFacts:
        """Raises TemplateError or HeaderError where the content cannot be used: the api has checked it, so only another
        version of this program can get there."""
        if campaign_id in self._kept:
            self._kept.move_to_end(campaign_id)
            return self._kept[campaign_id]
        async with self._ledger.read() as connection:
            project: str = (
                await connection.execute(
                    select(col(Project.name))
                    .join(Campaign, col(Campaign.project_id) == col(Project.id))
                    .where(col(Campaign.id) == campaign_id)
                )
            ).scalar_one()
            row = (
                await connection.execute(
                    select(
                        col(Campaign.project_id),
                        col(Campaign.from_email),
                        col(Campaign.from_name),
                        col(Campaign.reply_to),
                        col(Campaign.envelope_from),
                        col(Campaign.content),
                        col(Campaign.delivery),
                        col(Campaign.max_retries),
                        col(Campaign.retry_delay_seconds),
                    ).where(col(Campaign.id) == campaign_id)
                )
            ).one()
        content = CampaignContent.model_validate_json(row.content)
        domain = row.from_email.rpartition("@")[2]
        headers = CampaignHeaders(
            campaign_id=campaign_id,
            from_email=row.from_email,
            from_name=row.from_name,
            reply_to=row.reply_to or "",
            list_id=f"{_label(project)}.{domain}",
            feedback_id=f"{campaign_id.hex}:{row.project_id.hex}:campaign:vashsender",
            attachments=tuple(
                Attachment(file.filename, file.content_type, file.content) for file in content.attachments
            ),
        )

        def unsubscribe_url(recipient_id: int) -> str:
            return f"{self._public_url}/u/{make_token(self._secret, campaign_id, recipient_id)}"

        facts = CampaignFacts(
            id=campaign_id,
            project_id=row.project_id,
            envelope_from=row.envelope_from,
            builder=MessageBuilder(compile_content(content.subject, content.html, content.text), headers),
            signer=self._signers.get(domain),
            retries=RetryPolicy(row.max_retries, row.retry_delay_seconds, row.delivery == "at_most_once"),
            unsubscribe_url=unsubscribe_url,
        )
        self._kept[campaign_id] = facts
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return facts


def _label(project: str) -> str:
    """A project's name as a label of its List-Id (RFC 2919): a recipient filters by list, not by campaign."""
    return re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:63] or "list"
