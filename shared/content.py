"""What a campaign says, as it is kept in `campaign.content`: templates and attachments."""

from typing import Annotated

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field

from shared.header_text import check_content_type, check_file_name


class Attachment(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    filename: Annotated[str, AfterValidator(check_file_name)] = Field(
        min_length=1, max_length=255, examples=["price-list.pdf"]
    )
    content_type: Annotated[str, AfterValidator(check_content_type)] = Field(
        "application/octet-stream", examples=["application/pdf"]
    )
    content: Base64Bytes = Field(description="The file, in base64.")


class CampaignContent(BaseModel):
    """Templates in the subset of Jinja2 that `shared.templates` checks. Without `text`, it is derived from `html`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    subject: str = Field(min_length=1, max_length=998, examples=["{{ first_name }}, our spring news"])
    html: str | None = Field(None, examples=["<p>Hello {{ first_name|default('there') }}!</p>"])
    text: str | None = None
    attachments: tuple[Attachment, ...] = ()
