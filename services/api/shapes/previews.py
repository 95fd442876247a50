"""Previews: whose email is shown, and what it is."""

from pydantic import BaseModel, Field

from services.api.shapes.common import Body, Fields


class PreviewIn(Body):
    """Without members, the email to the campaign's first recipient. `data` shows it with other fields than a recipient
    has, so that `email` may then be any address."""

    email: str | None = Field(None, max_length=1000, examples=["ann@example.com"])
    data: Fields | None = Field(None, examples=[{"first_name": "Ann"}])


class HeaderOut(BaseModel):
    name: str
    value: str = Field(description="Decoded, as a mail program shows it.")


class LinkOut(BaseModel):
    url: str
    text: str = Field(description="What stands in its place. Empty for a link in a text without HTML.")


class PreviewAttachmentOut(BaseModel):
    filename: str
    content_type: str
    content_id: str | None
    size_bytes: int


class PreviewWarningOut(BaseModel):
    rule: str = Field(
        description="The rule's name; `template` for a warning about the source, with its place.",
        examples=["image-without-alt"],
    )
    detail: str
    pointer: str | None = Field(None, description="The member of the campaign, such as `#/html`.")
    line: int | None = None
    column: int | None = None


class PreviewOut(BaseModel):
    """An email, built by the code that builds the emails that are sent, and not sent. Its unsubscribe link works for no
    one."""

    email: str = Field(description="The address it is made for.")
    problem: str | None = Field(description="Why an email with these fields would fail. Null: nothing is wrong.")
    missing_fields: list[str] = Field(
        description="Fields without a value that the message needs. Stand-ins such as `[first_name]` are shown."
    )
    subject: str | None = Field(description="Null, like the members below: these fields give no email.")
    headers: list[HeaderOut]
    html: str | None
    text: str | None
    attachments: list[PreviewAttachmentOut]
    size_bytes: int | None = Field(description="The whole message with its attachments, without a DKIM signature.")
    html_bytes: int | None
    is_clipped: bool = Field(description="Whether Gmail cuts the HTML off, which it does after 102 KB.")
    links: list[LinkOut]
    warnings: list[PreviewWarningOut] = Field(
        description="What may make the email look wrong, or like spam, as far as that can be seen without a network."
    )
