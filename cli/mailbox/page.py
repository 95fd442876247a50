"""A small page that lists the stored emails and shows one safely: every email is treated as hostile."""

from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser, BytesParser
from importlib.resources import files

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cli.mailbox.maildir import Maildir

PER_PAGE = 50
# The page runs no script. An email's HTML may use its own styles but load nothing from outside.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; frame-ancestors 'none'; base-uri 'none'"
EMAIL_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"


def application(maildir: Maildir) -> Starlette:
    """`/` lists the newest emails. `/mail/KEY` shows one; `html`, `text` and `raw` below it give only its HTML, its
    text or its source."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text())

    def render(**values: object) -> HTMLResponse:
        return HTMLResponse(template.render(values), headers={"Content-Security-Policy": PAGE_POLICY, **_HEADERS})

    async def index(request: Request) -> Response:
        keys = maildir.keys()
        page = max(1, int(number)) if (number := request.query_params.get("page", "1")).isdecimal() else 1
        shown = keys[(page - 1) * PER_PAGE : page * PER_PAGE]
        parser = BytesHeaderParser(policy=policy.default)
        rows = [(key, parser.parsebytes(maildir.headers(key))) for key in shown]
        return render(
            count=len(keys), rows=rows, page=page, more=len(keys) > page * PER_PAGE, email=None, text=None, key=None
        )

    async def show(request: Request) -> Response:
        key = request.path_params["key"]
        email = _parse(maildir, key)
        return render(email=email, key=key, text=_part(email, "plain"), has_html=_part(email, "html") is not None)

    async def html(request: Request) -> Response:
        content = _part(_parse(maildir, request.path_params["key"]), "html")
        return HTMLResponse(content or "", headers={"Content-Security-Policy": EMAIL_POLICY, **_HEADERS})

    async def text(request: Request) -> Response:
        return PlainTextResponse(_part(_parse(maildir, request.path_params["key"]), "plain") or "", headers=_HEADERS)

    async def raw(request: Request) -> Response:
        return PlainTextResponse(_read(maildir, request.path_params["key"]), headers=_HEADERS)

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/health/ready", alive),
            Route("/mail/{key}", show),
            Route("/mail/{key}/html", html),
            Route("/mail/{key}/text", text),
            Route("/mail/{key}/raw", raw),
        ]
    )


_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def _read(maildir: Maildir, key: str) -> bytes:
    try:
        return maildir.read(key)
    except KeyError:
        raise HTTPException(404, "no such email here") from None


def _parse(maildir: Maildir, key: str) -> EmailMessage:
    message = BytesParser(policy=policy.default).parsebytes(_read(maildir, key))
    assert isinstance(message, EmailMessage)
    return message


def _part(email: EmailMessage, subtype: str) -> str | None:
    body = email.get_body(preferencelist=(subtype,))
    return str(body.get_content()) if body is not None else None
