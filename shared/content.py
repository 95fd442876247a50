"""What a campaign says, as it is kept in `campaign.content`: templates and attachments."""

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field


class Attachment(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    filename: str = Field(min_length=1, max_length=255, examples=["price-list.pdf"])
    content_type: str = Field("application/octet-stream", pattern=r"^[\w.+-]+/[\w.+-]+$", examples=["application/pdf"])
    content: Base64Bytes = Field(description="The file, in base64.")


class CampaignContent(BaseModel):
    """Templates in the subset of Jinja2 that `shared.templates` checks. Without `text`, it is derived from `html`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    subject: str = Field(min_length=1, max_length=998, examples=["{{ first_name }}, our spring news"])
    html: str | None = Field(None, examples=["<p>Hello {{ first_name|default('there') }}!</p>"])
    text: str | None = None
    attachments: tuple[Attachment, ...] = ()
