"""The headers that all messages of a campaign have, from its row in the ledger."""

import re
from typing import Protocol
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


def headers_of(
    campaign_id: UUID, row: Columns, project: str, sender_id: str | None, content: CampaignContent
) -> CampaignHeaders:
    """The headers of a campaign, with its attachments. `project` is the project's name.

    `sender_id` ends Feedback-ID; None: `vashsender`."""
    domain = row.from_email.rpartition("@")[2]
    return CampaignHeaders(
        campaign_id=campaign_id,
        from_email=row.from_email,
        from_name=row.from_name,
        reply_to=row.reply_to or "",
        reply_to_name=row.reply_to_name or "",
        list_id=f"{_label(project)}.{domain}",
        feedback_id=f"{campaign_id.hex}:{row.project_id.hex}:campaign:{sender_id or 'vashsender'}",
        attachments=tuple(
            Attachment(file.filename, file.content_type, file.content, file.content_id) for file in content.attachments
        ),
    )


def _label(project: str) -> str:
    """A project's name as a label of its List-Id (RFC 2919): recipients filter by list, not by campaign."""
    return re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")[:63] or "list"
