"""Who may see the page: keys, links, sessions, and forms from other sites."""

import re

import pytest

from services.api.page.session import resume
from shared.ledger import sessions
from shared.ledger.database import clock
from shared.ledger.keys import create_key, list_keys, revoke_key
from shared.sign_in import LINK_SECONDS, PATH, Purpose, make_link, make_token, read_token
from shared.signing import Use, derived_key
from tests.support.api import SECRET_KEY, ApiRig, api_on
from tests.support.visitor import Visitor, forms, text

BASE = "http://api.test"
SIGN_IN_KEY = derived_key(SECRET_KEY.encode(), Use.SIGN_IN)
PAGES = ("/", "/campaigns/new", "/services", "/suppressions", "/campaigns/018f0000-0000-7000-8000-000000000001")


async def link(rig: ApiRig) -> str:
    async with rig.ledger.read() as connection:
        address = await make_link(connection, SIGN_IN_KEY, await bearer(rig), BASE)
    return address.removeprefix(BASE)


async def bearer(rig: ApiRig) -> str:
    return rig.client.headers["authorization"].removeprefix("Bearer ")


async def test_a_key_signs_in_and_leads_back_to_the_page_asked_for(database_url: str) -> None:
    async with api_on(database_url) as rig:
        visitor = Visitor.of(rig)
        for path in PAGES:
            answer = await visitor.client.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith(PATH)
        sent_away = await visitor.client.get("/suppressions?email=a%40b.test")
        page = await visitor.get(sent_away.headers["location"])
        signed_in = await visitor.post(page, "/sign-in", key=f" {await bearer(rig)} ")
        assert signed_in.headers["location"] == "/suppressions?email=a%40b.test"
        cookie = signed_in.headers["set-cookie"]
        assert cookie.startswith("vashsender=")
        for attribute in ("HttpOnly", "Path=/", "SameSite=strict", "Max-Age=43200"):
            assert attribute in cookie
        assert "Secure" not in cookie
        assert "test" in text(await visitor.get("/"))
        assert (await visitor.client.get("/sign-in")).status_code == 303


async def test_behind_https_the_cookie_is_never_sent_without_tls(sqlite_url: str) -> None:
    async with api_on(sqlite_url, public_url="https://mail.example.com") as rig:
        visitor = Visitor.of(rig)
        visitor.client.base_url = "https://api.test"
        cookie = (await visitor.sign_in(await bearer(rig))).headers["set-cookie"]
        assert cookie.startswith("__Host-vashsender=")
        assert "Secure" in cookie
        await visitor.get("/")


async def test_a_wrong_key_is_refused_and_not_shown_again(database_url: str) -> None:
    async with api_on(database_url) as rig:
        visitor = Visitor.of(rig)
        for key in ("", "vs_" + "x" * 43, "nonsense"):
            answer = await visitor.sign_in(key, expect=401)
            assert "wrong or revoked" in answer.text
            assert not key or key not in answer.text


async def test_a_link_signs_in_once(database_url: str) -> None:
    async with api_on(database_url) as rig:
        path = await link(rig)
        previewing = Visitor.of(rig)
        for _ in range(2):
            await previewing.get(path)  # only looks
        visitor, late = Visitor.of(rig), Visitor.of(rig)
        page, late_page = await visitor.get(path), await late.get(path)
        assert (await visitor.post(page, path)).headers["location"] == "/"
        await visitor.get("/")
        assert "has been used" in (await late.post(late_page, path, expect=401)).text
        assert (await late.client.get("/")).status_code == 303


async def test_a_link_is_short_lived_and_worth_no_more_than_its_key(database_url: str) -> None:
    async with api_on(database_url) as rig:
        async with rig.ledger.write() as connection:
            key_id = (await list_keys(connection))[0].id
            now = await clock(connection)
        old = make_token(SIGN_IN_KEY, Purpose.LINK, key_id, now - 1)
        visitor = Visitor.of(rig)
        assert "has expired" in await visitor.get(f"{PATH}/{old}", expect=401)
        forged = make_token(b"x" * 32, Purpose.LINK, key_id, now + LINK_SECONDS)
        assert "was not made here" in text(await visitor.get(f"{PATH}/{forged}", expect=401))
        path = await link(rig)
        page = await visitor.get(path)
        async with rig.ledger.write() as connection:
            await revoke_key(connection, key_id)
        await visitor.post(page, path, expect=401)


async def test_revoking_the_key_ends_its_sessions_and_no_others(database_url: str) -> None:
    async with api_on(database_url) as rig:
        first, second = Visitor.of(rig), Visitor.of(rig)
        async with rig.ledger.write() as connection:
            other = await create_key(connection, "other")
        await first.sign_in(await bearer(rig))
        await second.sign_in(other)
        async with rig.ledger.write() as connection:
            await revoke_key(connection, next(key.id for key in await list_keys(connection) if key.name == "test"))
        assert (await first.client.get("/")).status_code == 303
        await second.get("/")


async def test_a_session_expires(database_url: str) -> None:
    async with api_on(database_url) as rig:
        async with rig.ledger.read() as connection:
            key = (await list_keys(connection))[0]
            now = await clock(connection)

        async def resumed(signed_by: bytes, purpose: Purpose, until: float, *, noted: bool = True) -> bool:
            token = make_token(signed_by, purpose, key.id, until)
            nonce = read_token([signed_by], purpose, token).nonce
            async with rig.ledger.write() as connection:
                if noted:
                    await sessions.start(connection, nonce, key.id, until, address="", browser="")
            return await resume(rig.api, token) is not None

        secret = derived_key(SECRET_KEY.encode(), Use.SESSION)
        assert not await resumed(secret, Purpose.SESSION, now - 1)
        assert await resumed(secret, Purpose.SESSION, now + 60)
        assert not await resumed(secret, Purpose.SESSION, now + 60, noted=False), "a cookie alone is worth nothing"
        assert not await resumed(b"y" * 32, Purpose.SESSION, now + 60)
        assert not await resumed(secret, Purpose.LINK, now + 60)
        for other in (SIGN_IN_KEY, derived_key(SECRET_KEY.encode(), Use.UNSUBSCRIBE), SECRET_KEY.encode()):
            assert not await resumed(other, Purpose.SESSION, now + 60), "keys of other uses sign no session"


async def test_signing_out_forgets_the_cookie_and_voids_its_copies(database_url: str) -> None:
    async with api_on(database_url) as rig:
        visitor, copy, other = Visitor.of(rig), Visitor.of(rig), Visitor.of(rig)
        await visitor.sign_in(await bearer(rig))
        await other.sign_in(await bearer(rig))
        copy.client.cookies.update(visitor.client.cookies)
        await copy.get("/")
        await visitor.post(await visitor.get("/"), "/sign-out")
        assert (await visitor.client.get("/")).headers["location"] == PATH
        assert (await copy.client.get("/")).headers["location"] == PATH
        await other.get("/")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_cannot_act(sqlite_url: str, site: str) -> None:
    async with api_on(sqlite_url) as rig:
        visitor = Visitor.of(rig)
        await visitor.sign_in(await bearer(rig))
        campaign = await rig.create(1)
        page = await visitor.get(f"/campaigns/{campaign}")
        token = forms(page)[f"/campaigns/{campaign}/send"]["csrf"]
        for data, headers in (
            ({}, {}),
            ({"csrf": "x"}, {}),
            ({"csrf": token[:-1]}, {}),
            ({"csrf": token}, {"Sec-Fetch-Site": site}),
        ):
            answer = await visitor.client.post(f"/campaigns/{campaign}/send", data=data, headers=headers)
            assert answer.status_code == 403, data
            assert "refused" in answer.text
        stranger = Visitor.of(rig)
        assert (await stranger.client.post(f"/campaigns/{campaign}/send", data={"csrf": token})).status_code == 303
        assert (await rig.show(campaign))["status"] == "draft"
        same = {"Sec-Fetch-Site": "same-origin"}
        assert (
            await visitor.client.post(f"/campaigns/{campaign}/send", data={"csrf": token}, headers=same)
        ).status_code == 303
        assert (await rig.show(campaign))["status"] == "queued"


async def test_the_form_token_of_one_session_is_refused_in_another(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as rig:
        first, second = Visitor.of(rig), Visitor.of(rig)
        await first.sign_in(await bearer(rig))
        await second.sign_in(await bearer(rig))
        page = await first.get("/suppressions")
        await second.post(page, "/suppressions", expect=403, emails="a@example.test")


async def test_a_sign_in_form_without_its_cookie_is_refused(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as rig:
        page = await Visitor.of(rig).get("/sign-in")
        await Visitor.of(rig).post(page, "/sign-in", expect=403, key=await bearer(rig))


async def test_every_page_has_a_content_security_policy(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as rig:
        visitor = Visitor.of(rig)
        open_pages = ["/sign-in", f"{PATH}/nonsense"]
        answers = [await visitor.client.get(path) for path in open_pages]
        await visitor.sign_in(await bearer(rig))
        answers += [await visitor.client.get(path) for path in (*PAGES, "/campaigns/nonsense")]
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"(src|href)=\"https?:", answer.text)


async def test_scripts_are_redirected_when_the_session_is_over(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as rig:
        by_script = await Visitor.of(rig, **{"HX-Request": "true"}).client.get("/")
        assert by_script.headers["hx-redirect"] == PATH
        stream = await Visitor.of(rig, Accept="text/event-stream").client.get("/services/live")
        assert stream.status_code == 401


async def test_style_and_scripts_are_cached_by_browsers(sqlite_url: str) -> None:
    async with api_on(sqlite_url) as rig:
        visitor = Visitor.of(rig)
        assets = re.findall(r'(?:src|href)="(/static/[^"]+)"', await visitor.get("/sign-in"))
        assert len(assets) == 5
        for asset in assets:
            answer = await visitor.client.get(asset)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
        assert (await visitor.client.get("/static/page.css")).headers["cache-control"] == "no-cache"
        assert (await visitor.client.get("/static/..%2Fcsrf.py")).status_code == 404
