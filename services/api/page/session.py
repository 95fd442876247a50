"""Who is signed in: a signed cookie that names an API key and a session in the ledger. It ends after its time, when the
person or an operator ends it, or with the key."""

from dataclasses import dataclass

from fastapi import Request, Response

from services.api.context import Api
from services.api.usecases.sessions import note_seen
from services.api.web.context import api_of, client_address
from shared.ledger import audit, keys, sessions
from shared.ledger.audit import Actor
from shared.ledger.database import clock
from shared.settings import ApiSettings
from shared.sign_in import Purpose, make_token, read_token
from shared.signing import TokenError, Use


@dataclass(frozen=True, slots=True)
class Session:
    """A person who is signed in."""

    key: keys.Key
    id: str
    token: str  # the value of the cookie


async def current(request: Request) -> Session | None:
    """The session of a request; None if there is none, or it is over."""
    api = api_of(request)
    token = request.cookies.get(cookie_name(api.settings), "")
    return await resume(api, token)


async def resume(api: Api, token: str) -> Session | None:
    """The session that a cookie's value stands for; None if it is over."""
    try:
        said = read_token(api.settings.signing_keys(Use.SESSION), Purpose.SESSION, token)
    except TokenError:
        return None
    async with api.ledger.read() as connection:
        key = await keys.find(connection, key_id=said.key_id)
        unseen = await sessions.seconds_unseen(connection, said.nonce)
        if key is None or unseen is None or said.until <= await clock(connection):
            return None
    await note_seen(api.ledger, said.nonce, unseen)
    return Session(key, said.nonce, token)


async def start(request: Request, key: keys.Key, response: Response) -> None:
    """Signs in the person who holds `key`."""
    api, settings = api_of(request), api_of(request).settings
    until = await api.ledger.now() + settings.page_session_seconds
    token = make_token(settings.signing_keys(Use.SESSION)[0], Purpose.SESSION, key.id, until)
    said = read_token(settings.signing_keys(Use.SESSION), Purpose.SESSION, token)
    address, browser = client_address(request), request.headers.get("user-agent", "")
    async with api.ledger.write() as connection:
        await sessions.start(connection, said.nonce, key.id, said.until, address=address, browser=browser)
        await keys.note_use(connection, key.id)
        actor = Actor("page", str(key.id), key.name, address)
        await audit.record(connection, actor, "POST /sign-in", project_id=key.project_id)
    set_cookie(response, settings, cookie_name(settings), token, int(settings.page_session_seconds))


async def end(api: Api, session: Session, response: Response) -> None:
    """Signs out. A copy of the cookie is worth nothing afterwards."""
    async with api.ledger.write() as connection:
        await sessions.end(connection, session.id)
    set_cookie(response, api.settings, cookie_name(api.settings), "", 0)


def cookie_name(settings: ApiSettings, name: str = "vashsender") -> str:
    """`__Host-` makes the browser insist on Secure, on the path `/` and on this very host (RFC 6265bis, 4.1.3.2)."""
    return f"__Host-{name}" if _is_secure(settings) else name


def set_cookie(response: Response, settings: ApiSettings, name: str, value: str, seconds: int | None) -> None:
    """Sets a cookie that no script reads and no other site sends; for `seconds`, or (None) until the browser closes."""
    response.set_cookie(
        name, value, max_age=seconds, path="/", secure=_is_secure(settings), httponly=True, samesite="strict"
    )


def _is_secure(settings: ApiSettings) -> bool:
    return settings.public_url.startswith("https://")
