"""A campaign's content: checked when it comes in."""

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

from services.api.shapes.campaigns import CampaignOut, ContentWarningOut
from services.api.usecases.errors import UnknownFieldError, invalid
from shared.content import CampaignContent, InlineImageError, check_inline_images
from shared.templates import Content, FieldUse, TemplateError, compile_content

_KNOWN = 1000
"""Contents that are remembered, by their digests."""
_sound: OrderedDict[bytes, None] = OrderedDict()
"""Those from the ledger that this process has compiled."""


async def check(content: CampaignContent) -> Content:
    """The compiled content. Raises InvalidError with part, line and column."""
    compiled = await _compiled(content, is_stored=False)  # bounds the HTML
    try:
        await asyncio.to_thread(check_inline_images, content)
    except InlineImageError as error:
        raise invalid(f"#/{error.part}", error.reason) from None
    return compiled


async def compiled(stored: str) -> Content:
    """Content from the ledger, compiled. It was checked when it came in, perhaps by an older release with other rules:
    what they took is taken here too, with a warning, as the senders do."""
    found = await _compiled(CampaignContent.model_validate_json(stored), is_stored=True)
    _sound[_digest(stored)] = None
    if len(_sound) > _KNOWN:
        _sound.popitem(last=False)
    return found


async def require_sound(stored: str) -> None:
    """Raises InvalidError for content from the ledger that cannot be sent. Usually an import has compiled it."""
    if _digest(stored) not in _sound:
        await compiled(stored)


def _digest(stored: str) -> bytes:
    return hashlib.blake2b(stored.encode(), digest_size=16).digest()


async def _compiled(content: CampaignContent, *, is_stored: bool) -> Content:
    try:
        # Megabytes of HTML take a while: the event loop stays free for other requests.
        return await asyncio.to_thread(
            compile_content, content.subject, content.html, content.text, is_stored=is_stored
        )
    except TemplateError as error:
        raise invalid(f"#/{error.part}", error.message, line=error.line, column=error.column) from None


def with_warnings(shown: CampaignOut, content: Content) -> CampaignOut:
    """The campaign with what may not be meant in its content."""
    warnings = [
        ContentWarningOut(pointer=f"#/{one.part}", detail=one.message, line=one.line, column=one.column)
        for one in content.warnings
    ]
    return shown.model_copy(update={"warnings": warnings})


def unknown_field(use: FieldUse, known: str, **members: Any) -> UnknownFieldError:
    """The error about a field that the message needs and the recipients do not have; `known` names those they have."""
    return UnknownFieldError(
        f"{use.part}, line {use.line}, column {use.column}: {use.name!r} is not among the fields of the recipients"
        f" ({known}). Import it, correct its spelling, or give it a default: {{{{ {use.name}|default('...') }}}}.",
        field=use.name,
        errors=[
            {"pointer": f"#/{use.part}", "detail": f"{use.name!r} is unknown", "line": use.line, "column": use.column}
        ],
        **members,
    )
