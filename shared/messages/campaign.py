"""The headers that all messages of a campaign have, from its row in the ledger."""

import re
from typing import NamedTuple, Protocol
from uuid import UUID

from shared.content import CampaignContent
from shared.messages.message import Attachment, CampaignHeaders


class Columns(Protocol):
    """The columns of a campaign from which its headers are made."""

    @property
    def project_id(self) -> UUID: ...
    @property
    def from_email(self) -> str: ...
    @property
    def from_name(self) -> str: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def reply_to_name(self) -> str | None: ...


class ProjectHeaders(NamedTuple):
    """What a project says in the headers of its emails."""

    name: str
    #: Ends Feedback-ID; None: `vashsender`.
    sender_id: str | None
    #: Of the domain in From; None: it has none.
    bounce_domain: str | None = None


def headers_of(campaign_id: UUID, row: Columns, project: ProjectHeaders, content: CampaignContent) -> CampaignHeaders:
    """The headers of a campaign, with its attachments."""
    domain = row.from_email.rpartition("@")[2]
    return CampaignHeaders(
        campaign_id=campaign_id,
        from_email=row.from_email,
        from_name=row.from_name,
        reply_to=row.reply_to or "",
        reply_to_name=row.reply_to_name or "",
        list_id=f"{_label(project.name)}.{domain}",
        feedback_id=f"{campaign_id.hex}:{row.project_id.hex}:campaign:{project.sender_id or 'vashsender'}",
        bounce_domain=project.bounce_domain or "",
        attachments=tuple(
            Attachment(file.filename, file.content_type, file.content, file.content_id) for file in content.attachments
        ),
    )


def _label(project: str) -> str:
    """A project's name as a label of its List-Id (RFC 2919): recipients filter by list, not by campaign."""
    return re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:63] or "list"
