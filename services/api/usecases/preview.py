"""The email to one person, built as the sender builds it, and not sent."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import orjson
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.previews import (
    HeaderOut,
    LinkOut,
    PreviewAttachmentOut,
    PreviewIn,
    PreviewOut,
    PreviewWarningOut,
)
from services.api.usecases import campaign_row, content, recipients
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import invalid
from services.api.usecases.preview_rules import CLIPPED_BYTES, warnings_about
from services.api.usecases.read_email import Email, read_email
from shared.addresses import Address, AddressError, parse_address
from shared.content import CampaignContent
from shared.email_tokens import TokenMaker
from shared.errors import DataError
from shared.ledger import domains
from shared.ledger.database import Ledger
from shared.ledger.models import Project
from shared.messages.campaign import ProjectHeaders, headers_of
from shared.messages.message import Attachment, CampaignHeaders, MessageBuilder
from shared.settings import ApiSettings
from shared.signing import Use
from shared.templates import Content, FieldUse, Value

NO_ONE = 0
"""Recipients' ids begin at 1, so the unsubscribe link of this one works for no one."""

EXAMPLE_ADDRESS = "someone@example.com"

MAX_SHOWN_CHARACTERS = 20_000_000
_CID = re.compile(r"cid:([^\"'\s<>)]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview, with the images that the HTML shows as `cid:`."""

    shown: PreviewOut
    images: Mapping[str, Attachment]  # by content id


@dataclass(frozen=True, slots=True)
class _Person:
    id: int
    email: str
    data: Mapping[str, Value]


async def content_bytes(ledger: Ledger, campaign: CampaignRef) -> int:
    """How long the content of a campaign is, about. Raises NotFoundError."""
    async with ledger.read() as connection:
        await campaign_row.find(connection, campaign)
        return await campaign_row.content_bytes(connection, campaign.id)


async def preview(ledger: Ledger, settings: ApiSettings, campaign: CampaignRef, given: PreviewIn) -> Preview:
    """Raises NotFoundError, ForgottenError, and InvalidError for an address that is not a recipient's."""
    async with ledger.read() as connection:
        row = await campaign_row.find_kept(connection, campaign)
        stored = await campaign_row.content_of(connection, campaign.id)
        of_project = select(col(Project.name), col(Project.sender_id)).where(col(Project.id) == campaign.project_id)
        project = (await connection.execute(of_project)).one()
        domain = await domains.owner(connection, row.from_email.rpartition("@")[2])
        person = await _person(connection, campaign, given)
    compiled = await content.compiled(stored)
    message = CampaignContent.model_validate_json(stored)
    bounce_domain = domain.bounce_domain if domain else None
    headers = headers_of(campaign.id, row, ProjectHeaders(project.name, project.sender_id, bounce_domain), message)
    tokens = TokenMaker(settings.signing_keys(Use.UNSUBSCRIBE)[0], campaign.id).make(NO_ONE)
    link = f"{settings.public_url}/u/{tokens.link}"
    # Megabytes of HTML take a while: the event loop stays free for other requests.
    shown = await asyncio.to_thread(_shown, compiled, headers, person, tokens.mail, link)
    return Preview(shown, {file.content_id: file for file in headers.attachments if file.content_id is not None})


def with_images(html: str, images: Mapping[str, Attachment]) -> str:
    """The HTML with its inline images as `data:` URLs, which need no request. Those that would make it longer than
    MAX_SHOWN_CHARACTERS stay out: it may show one image a thousand times."""
    room = MAX_SHOWN_CHARACTERS - len(html)

    def data_url(found: re.Match[str]) -> str:
        nonlocal room
        file = images.get(unquote(found[1]))
        if file is None or (needed := len(file.content) * 4 // 3 + 100) > room:
            return found[0]
        room -= needed
        return f"data:{file.content_type};base64,{b64encode(file.content).decode()}"

    return _CID.sub(data_url, html)


async def _person(connection: AsyncConnection, campaign: CampaignRef, given: PreviewIn) -> _Person:
    if given.data is not None:
        return _Person(NO_ONE, _address(given.email or EXAMPLE_ADDRESS).email, given.data)
    if given.email is None:
        row = await recipients.first(connection, campaign)
        return _Person(NO_ONE, EXAMPLE_ADDRESS, {}) if row is None else _stored(row)
    row = await recipients.by_address(connection, campaign, _address(given.email))
    if row is None:
        raise invalid("#/email", "is not a recipient of this campaign; give data to see the email without one")
    return _stored(row)


def _stored(row: Row[Any]) -> _Person:
    return _Person(row.id, row.email, orjson.loads(row.data) if row.data else {})


def _address(email: str) -> Address:
    try:
        return parse_address(email)
    except AddressError as error:
        raise invalid("#/email", error.reason) from None


def _shown(compiled: Content, headers: CampaignHeaders, person: _Person, token: str, link: str) -> PreviewOut:
    has_value = [name for name, value in person.data.items() if value is not None and str(value).strip()]
    missing = compiled.missing(has_value)
    problem = compiled.problem(person.data)
    why = problem.message if problem else None
    email = None
    try:
        builder = MessageBuilder(compiled, headers)
        data = {**person.data, **{use.name: _stand_in(use) for use in missing}}
        octets = builder.build(token, person.email, data, formatdate(), link)
        email = read_email(octets, headers.from_email, headers.attachments, link)
    except DataError as error:
        why = why or str(error)
    return PreviewOut(
        email=person.email,
        problem=why,
        missing_fields=[use.name for use in missing],
        subject=email and email.subject,
        headers=[HeaderOut(name=name, value=value) for name, value in email.headers] if email else [],
        html=email and email.html,
        text=email and email.text,
        attachments=[
            PreviewAttachmentOut(
                filename=file.filename,
                content_type=file.content_type,
                content_id=file.content_id,
                size_bytes=len(file.content),
            )
            for file in headers.attachments
        ],
        size_bytes=email and email.size_bytes,
        html_bytes=email and email.html_bytes,
        is_clipped=email is not None and email.html_bytes > CLIPPED_BYTES,
        links=[LinkOut(url=one.url, text=one.text) for one in email.links] if email else [],
        warnings=_warnings(compiled, email),
    )


def _warnings(compiled: Content, email: Email | None) -> list[PreviewWarningOut]:
    return [
        PreviewWarningOut(
            rule="template", detail=one.message, pointer=f"#/{one.part}", line=one.line, column=one.column
        )
        for one in compiled.warnings
    ] + [PreviewWarningOut(rule=rule, detail=detail) for rule, detail in (warnings_about(email) if email else ())]


def _stand_in(use: FieldUse) -> Value:
    """What a preview shows for a field that the message needs and the person does not have."""
    if use.is_number:
        return 1
    return f"https://example.com/{use.name}" if use.is_link else f"[{use.name}]"
