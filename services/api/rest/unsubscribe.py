"""`/u/{token}`: the unsubscribe link of every email (RFC 8058). POST unsubscribes. GET only shows a page with a button,
because scanners and previews fetch links. There is no sign-in: the token is the proof."""

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path

from fastapi import APIRouter, Request, Response

from services.api.usecases.unsubscribe import subscriber, unsubscribe
from services.api.web.context import ApiDep
from shared.signing import Use

TEMPLATE = Path(__file__).with_name("unsubscribe.html")

router = APIRouter(tags=["unsubscribe"])

_TEXTS = {
    "en": {
        "title": "Unsubscribe",
        "ask": "Stop emails to <strong>{address}</strong>?",
        "button": "Unsubscribe",
        "done": "Done: <strong>{address}</strong> will get no more emails from this sender.",
        "again": "An email that is already on its way may still arrive.",
        "bad": "This link is damaged or no longer valid. Copy the whole link from the email and try again.",
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


@router.get("/u/{token}", summary="Show a page with an unsubscribe button", response_class=Response)
@router.head("/u/{token}", include_in_schema=False)
async def ask(token: str, request: Request, api: ApiDep) -> Response:
    """Changes nothing."""
    texts = _texts(request)
    async with api.ledger.read() as connection:
        person = await subscriber(connection, api.settings.signing_keys(Use.UNSUBSCRIBE), token)
    if person is None:
        return _page(404, texts, texts["bad"])
    return _page(200, texts, texts["ask"].format(address=_masked(person.address.email)), _button(texts))


@router.post("/u/{token}", summary="Unsubscribe at once (RFC 8058, one click)", response_class=Response)
async def act(token: str, request: Request, api: ApiDep) -> Response:
    """Mail programs post `List-Unsubscribe=One-Click`, and the button an empty form. The body does not matter: the
    token is enough."""
    texts = _texts(request)
    # Read first: strangers with a wrong link must not keep writers of SQLite waiting.
    async with api.ledger.read() as connection:
        person = await subscriber(connection, api.settings.signing_keys(Use.UNSUBSCRIBE), token)
    if person is None:
        return _page(404, texts, texts["bad"])
    async with api.ledger.write() as connection:
        await unsubscribe(connection, person)
    return _page(200, texts, texts["done"].format(address=_masked(person.address.email)), f"<p>{texts['again']}</p>")


def _texts(request: Request) -> dict[str, str]:
    wanted = request.headers.get("accept-language", "").strip().lower()
    return _TEXTS["ru" if wanted.startswith("ru") else "en"]


def _button(texts: dict[str, str]) -> str:
    return f'<form method="post"><button>{escape(texts["button"])}</button></form>'


def _page(status: int, texts: dict[str, str], body: str, more: str = "") -> Response:
    template, style_hash = _template()
    language = "ru" if texts is _TEXTS["ru"] else "en"
    page = template.format(language=language, title=texts["title"], body=body, more=more)
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
    """The page, and the hash of its style: the Content-Security-Policy allows nothing else."""
    source = TEMPLATE.read_text()
    style = source.partition("<style>")[2].partition("</style>")[0].replace("{{", "{").replace("}}", "}")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return source, f"sha256-{digest}"


def _masked(email: str) -> str:
    """Enough for its owner to recognise; too little for a person to whom the email was forwarded. Nothing is left of an
    address that was erased."""
    if not email:
        return "•••"
    local, _, domain = email.rpartition("@")
    return escape(f"{local[:1]}•••@{domain}")
