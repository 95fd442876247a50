"""`/u/{token}`: the unsubscribe link of every email (RFC 8058). POST acts, GET only shows a page with a button:
scanners and previews fetch links, and must not unsubscribe anybody. No sign-in: the token is the proof."""

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path
from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlmodel import col

from services.api.context import Api, ApiDep
from services.api.suppressions import suppress
from shared import logs
from shared.addresses import Address
from shared.ledger.models import Campaign, Recipient
from shared.unsubscribe import TokenError, read_token

TEMPLATE = Path(__file__).with_name("unsubscribe.html")

log = logs.get()
router = APIRouter(tags=["unsubscribe"])

_TEXTS = {
    "en": {
        "title": "Unsubscribe",
        "ask": "Stop emails to <strong>{address}</strong>?",
        "button": "Unsubscribe",
        "done": "Done: <strong>{address}</strong> gets no further emails from this sender.",
        "again": "One that is on its way already may still arrive.",
        "bad": "This link is damaged or no longer known. Copy the whole link from the email and try again.",
    },
    "ru": {
        "title": "Отписка от рассылки",
        "ask": "Больше не присылать письма на <strong>{address}</strong>?",
        "button": "Отписаться",
        "done": "Готово: на <strong>{address}</strong> письма от этого отправителя больше не придут.",
        "again": "Письмо, которое уже в пути, ещё может прийти.",
        "bad": "Ссылка повреждена или устарела. Скопируйте её из письма целиком и попробуйте ещё раз.",
    },
}


@router.get("/u/{token}", summary="A page with a button; changes nothing", response_class=Response)
@router.head("/u/{token}", include_in_schema=False)
async def ask(token: str, request: Request, api: ApiDep) -> Response:
    found = await _recipient(api, token)
    texts = _texts(request)
    if found is None:
        return _page(404, texts, texts["bad"])
    body = texts["ask"].format(address=_masked(found[2].email))
    return _page(200, texts, body, button=texts["button"])


@router.post("/u/{token}", summary="Unsubscribes at once (RFC 8058, one click)", response_class=Response)
async def act(token: str, request: Request, api: ApiDep) -> Response:
    """Mail programs post `List-Unsubscribe=One-Click`, the page's button an empty form: the token says everything."""
    found = await _recipient(api, token)
    texts = _texts(request)
    if found is None:
        return _page(404, texts, texts["bad"])
    project_id, campaign_id, address = found
    async with api.ledger.write() as connection:
        entry = {"address": address, "reason": "unsubscribed", "campaign_id": campaign_id}
        added = await suppress(connection, project_id, [entry])
    if added:
        log.info("recipient.unsubscribed", campaign_id=str(campaign_id))
    return _page(200, texts, texts["done"].format(address=_masked(address.email)), note=texts["again"])


async def _recipient(api: Api, token: str) -> tuple[UUID, UUID, Address] | None:
    """Project, campaign and address the token was made for."""
    try:
        campaign_id, recipient_id = read_token(api.settings.secret_keys, token)
    except TokenError:
        return None
    if recipient_id >= 2**63:
        return None
    async with api.ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.project_id), col(Recipient.email), col(Recipient.email_key))
            .join_from(Recipient, Campaign, col(Campaign.id) == col(Recipient.campaign_id))
            .where(col(Recipient.id) == recipient_id, col(Recipient.campaign_id) == campaign_id)
        )
        row = found.first()
    return None if row is None else (row.project_id, campaign_id, Address(row.email, row.email_key))


def _texts(request: Request) -> dict[str, str]:
    wanted = request.headers.get("accept-language", "").strip().lower()
    return _TEXTS["ru" if wanted.startswith("ru") else "en"]


def _page(status: int, texts: dict[str, str], body: str, *, button: str = "", note: str = "") -> Response:
    template, style_hash = _template()
    form = f'<form method="post"><button>{escape(button)}</button></form>' if button else ""
    page = template.format(
        language="ru" if texts is _TEXTS["ru"] else "en",
        title=texts["title"],
        body=body,
        more=form or (f"<p>{note}</p>" if note else ""),
    )
    return Response(
        page,
        status,
        {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src '{style_hash}'; form-action 'self'; base-uri 'none'; "
                "frame-ancestors 'none'"
            ),
            "X-Robots-Tag": "noindex, nofollow",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
        "text/html; charset=utf-8",
    )


@cache
def _template() -> tuple[str, str]:
    """The page, and its style's hash for the Content-Security-Policy: nothing else on it may style or run."""
    source = TEMPLATE.read_text()
    style = source.partition("<style>")[2].partition("</style>")[0].replace("{{", "{").replace("}}", "}")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return source, f"sha256-{digest}"


def _masked(email: str) -> str:
    """Enough for its owner to know it, too little for whoever the email was forwarded to."""
    local, _, domain = email.rpartition("@")
    return escape(f"{local[:1]}•••@{domain}")
