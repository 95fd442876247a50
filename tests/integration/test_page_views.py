"""What the pages show and what their forms do."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, update
from sqlmodel import col

from services.api.page import live, session
from services.api.page.live import Parts
from services.api.usecases import replies
from services.api.usecases.errors import NotFoundError
from shared.events import CampaignRequested
from shared.ledger import history, instances
from shared.ledger.database import db_now
from shared.ledger.history import Point
from shared.ledger.models import Batch, Campaign, Project, Recipient
from shared.ledger.states import RecipientStatus
from tests.support.api import ApiRig, api_on, campaign_body
from tests.support.seeds import seed_campaign
from tests.support.services import ledger_at
from tests.support.visitor import Visitor, text

CSV = b"email,first_name\nann@example.test,Ann\nbob@example.test,Bob\nann@example.test,Ann\nnobody,N\n"
DRAFT = {
    "name": "Spring <news>",
    "from_email": "news@example.test",
    "from_name": "News",
    "subject": "Hello {{ first_name }}",
    "html": "<p>Dear {{ first_name }}</p>",
    "text": "",
    "emails_per_second": "",
}


@asynccontextmanager
async def page_on(database_url: str) -> AsyncIterator[tuple[ApiRig, Visitor]]:
    async with api_on(database_url) as rig:
        yield rig, await Visitor.signed_in(rig)


async def fail(rig: ApiRig, campaign: UUID, reply: str, number: int) -> None:
    """Makes recipients of a seeded campaign fail, counted in their batches."""
    async with rig.ledger.write() as connection:
        await connection.execute(
            update(Recipient)
            .where(col(Recipient.campaign_id) == campaign, col(Recipient.email).in_(emails(number)))
            .values(status="failed", smtp_code=550, enhanced_code="5.7.1", reply=reply, relay="mx.test:25", attempts=1)
        )
        await connection.execute(
            update(Batch)
            .where(col(Batch.campaign_id) == campaign)
            .values(failed=number, pending=col(Batch.size) - number)
        )


def emails(number: int) -> list[str]:
    return [f"person-{one}@example.test" for one in range(number)]


async def test_a_campaign_is_made_imported_and_sent(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        answer = await visitor.post(
            await visitor.get("/campaigns/new"),
            "/campaigns",
            **DRAFT,
            files={"recipients": ("list.csv", CSV, "text/csv")},
        )
        where = answer.headers["location"]
        page = await visitor.get(where)
        said = text(page)
        assert "Spring <news>" in said
        assert "2 recipients imported , 1 duplicate left out, 1 invalid line left out" in said
        assert "nobody" in said
        base = where.split("?")[0]
        assert (await visitor.post(page, f"{base}/send")).headers["location"] == f"{base}?told=sent"
        assert "on its way" in await visitor.get(f"{base}?told=sent")
        assert (await rig.show(base.rpartition("/")[2]))["status"] == "queued"
        assert len(rig.bus.of(CampaignRequested)) == 1


@pytest.mark.parametrize("with_file", [True, False])
async def test_warnings_about_a_new_message_are_told_and_shown(database_url: str, with_file: bool) -> None:
    async with page_on(database_url) as (_, visitor):
        files = {"recipients": ("list.csv", CSV if with_file else b"", "text/csv") if with_file else ("", b"")}
        draft = {**DRAFT, "html": "<p>Dear *|FNAME|*</p>", "reply_to": "a@example.test", "reply_to_name": "Ann, Ltd"}
        answer = await visitor.post(await visitor.get("/campaigns/new"), "/campaigns", **draft, files=files)
        where = answer.headers["location"]
        assert "There are warnings about" in text(await visitor.get(where))
        message = text(await visitor.get(f"{where.partition('?')[0]}/message"))
        assert "Html, line 1, column 9: *|FNAME|* is not a field here" in unescape(message)
        assert "Ann, Ltd <a@example.test>" in unescape(message)


async def test_a_reply_to_that_is_wrong_is_told_beside_its_field(database_url: str) -> None:
    async with page_on(database_url) as (_, visitor):
        new = await visitor.get("/campaigns/new")
        page = (await visitor.post(new, "/campaigns", expect=422, **{**DRAFT, "reply_to_name": "Ann"})).text
        assert re.search(r'id="reply_to-help"><span class="t-failed">[^<]+<', page)
        page = (await visitor.post(new, "/campaigns", expect=422, **{**DRAFT, "emails_per_second": "fast"})).text
        assert "emails per second: must be a number, such as 2.5" in text(page)


async def test_a_refused_form_keeps_what_was_typed(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        new = await visitor.get("/campaigns/new")
        wrong = {**DRAFT, "from_email": "news", "html": "<p>{{ first_name </p>"}
        page = (await visitor.post(new, "/campaigns", expect=422, **wrong)).text
        assert "There must be" in text(page) or "@" in text(page)
        assert 'value="Spring &lt;news&gt;"' in page
        page = (await visitor.post(new, "/campaigns", expect=422, **{**DRAFT, "html": "<p>{{ first_name </p>"})).text
        assert re.search(r"Line 1, column \d+", text(page))
        page = (await visitor.post(new, "/campaigns", expect=422, **{**DRAFT, "emails_per_second": "fast"})).text
        assert 'aria-invalid="true"' in page
        assert (await rig.get("/v1/campaigns"))["data"] == []


async def test_a_file_that_cannot_be_read_is_refused_with_its_line(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = await rig.create(0)
        page = await visitor.get(f"/campaigns/{campaign}")
        for name, content, told in (
            ("list.csv", b"email\na@example.test,too,many\n", "Line 2"),
            ("list.json", b"{", "JSON"),
            ("", b"", "No file was chosen"),
        ):
            files = {"recipients": (name, content)} if name else {"other": ("x", b"")}
            answer = await visitor.post(page, f"/campaigns/{campaign}/import", expect=422, files=files)
            assert told in text(answer.text)
        ndjson = b'{"email": "ann@example.test"}\n'
        await visitor.post(page, f"/campaigns/{campaign}/import", files={"recipients": ("list.ndjson", ndjson)})
        assert (await rig.show(campaign))["counts"]["total"] == 1


async def test_only_buttons_that_do_something_are_shown(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        empty = await visitor.get(f"/campaigns/{await rig.create(0)}")
        assert "Send now" not in empty
        assert "Delete…" in empty
        campaign = await rig.create(2)
        base = f"/campaigns/{campaign}"
        await visitor.post(await visitor.get(base), f"{base}/send")
        for action, next_button, gone in (
            ("pause", "Resume", "Pause"),
            ("resume", "Pause", "Resume"),
            ("cancel", "Send a test…", "Cancel…"),
        ):
            page = await visitor.get(base)
            await visitor.post(page, f"{base}/{action}")
            after = await visitor.get(base)
            assert f">{next_button}<" in after
            assert f">{gone}<" not in after
            refused = await visitor.post(page, f"{base}/{action}", expect=409)
            assert "does not allow" in refused.text
        assert (await rig.show(campaign))["status"] == "stopping"


async def test_a_schedule_is_in_utc(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = await rig.create(1)
        base = f"/campaigns/{campaign}"
        page = await visitor.get(base)
        await visitor.post(page, f"{base}/send", expect=422, scheduled_at="tomorrow")
        await visitor.post(page, f"{base}/send", expect=422, scheduled_at="2020-01-01T12:00")
        await visitor.post(page, f"{base}/send", scheduled_at="2099-01-01T12:00")
        assert (await rig.show(campaign))["scheduled_at"] == "2099-01-01T12:00:00Z"


async def test_a_test_uses_the_fields_of_the_first_recipient(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = await rig.create(0, text="Dear {{ first_name }}", subject="News")
        await rig.load(campaign, CSV, {"Content-Type": "text/csv"})
        base = f"/campaigns/{campaign}"
        page = await visitor.get(base)
        answer = await visitor.post(page, f"{base}/test", emails="me@example.test, you@example.test")
        test = re.search(r"test=([0-9a-f-]+)", answer.headers["location"])
        assert test
        assert f'href="/campaigns/{test[1]}"' in await visitor.get(answer.headers["location"])
        recipients = (await rig.get(f"/v1/campaigns/{test[1]}/recipients"))["data"]
        assert [(one["email"], one["data"]) for one in recipients] == [
            ("me@example.test", {"first_name": "Ann"}),
            ("you@example.test", {"first_name": "Ann"}),
        ]
        for wrong in ("", "nobody", " ".join(f"a{number}@example.test" for number in range(11))):
            await visitor.post(page, f"{base}/test", expect=422, emails=wrong)
        assert test[1] not in await visitor.get("/")
        assert test[1] in await visitor.get("/?tests=true")


async def test_a_draft_is_deleted(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = await rig.create(2)
        page = await visitor.get(f"/campaigns/{campaign}")
        await visitor.post(page, f"/campaigns/{campaign}/delete")
        await visitor.get(f"/campaigns/{campaign}", expect=404)
        await visitor.post(page, f"/campaigns/{campaign}/delete", expect=404)


async def test_failures_are_grouped_listed_and_retried(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 20, status="finished", finished_at=db_now())).id
        await fail(rig, campaign, "rejected <by> policy", 5)
        base = f"/campaigns/{campaign}"
        page = await visitor.get(f"{base}/failures")
        said = text(page)
        assert "All 5 recipients" in said
        assert "550 5.7.1 rejected <by> policy" in said
        assert "Policy or reputation: not the recipient's fault." in said
        assert "person-0@example.test" in said
        assert "rejected <by>" not in page
        listed = await visitor.get(f"{base}/recipients?status=failed")
        assert [email in listed for email in emails(6)] == [True] * 5 + [False]
        await visitor.post(page, f"{base}/retry-failed")
        assert (await rig.show(str(campaign)))["reopening"] == "failed"
        await visitor.post(page, f"{base}/retry-failed", expect=303)
        assert "No recipients have this status" in await visitor.get(f"{base}/failures?status=unknown")


async def test_a_sample_says_that_it_is_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.usecases.replies.ROWS_GROUPED", 3)
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 20)).id
        await fail(rig, campaign, "no", 5)
        assert "A sample: 3 of 5 recipients" in text(await visitor.get(f"/campaigns/{campaign}/failures"))


async def test_a_sample_is_of_all_parts_of_the_campaign(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many batches with failures only a few are looked at in each stretch."""
    monkeypatch.setattr(replies, "ROWS_GROUPED", 10)
    monkeypatch.setattr(replies, "STRETCHES", 5)
    monkeypatch.setattr(replies, "BATCHES_OF_STRETCH", 2)
    async with ledger_at(database_url) as ledger:
        campaign = await seed_campaign(ledger, 100, batch_size=2)
        async with ledger.write() as connection:
            await connection.execute(update(Recipient).values(status="failed", reply=col(Recipient.email_key)))
            await connection.execute(update(Batch).values(failed=2, pending=0))
            held = await replies._held(connection, campaign.id, col(Batch.failed), 100)
            all_held = await replies._held(connection, campaign.id, col(Batch.failed), 10)
            found = await replies.by_reply(connection, campaign.id, RecipientStatus.FAILED, 100)
    assert [row.first_id for row in held] == [campaign.recipient_ids[n] for n in (0, 2, 20, 22, 40, 42, 60, 62, 80, 82)]
    assert len(all_held) == 50
    assert (found.grouped, found.total) == (10, 100)


async def test_unknown_recipients_are_settled(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 3, status="finished", finished_at=db_now())).id
        async with rig.ledger.write() as connection:
            await connection.execute(
                update(Batch).where(col(Batch.campaign_id) == campaign).values(unknown=1, sent=2, pending=0)
            )
        base = f"/campaigns/{campaign}"
        page = await visitor.get(base)
        await visitor.post(page, f"{base}/resolve-unknown", expect=422, **{"as": "guess"})
        await visitor.post(page, f"{base}/resolve-unknown", **{"as": "sent"})
        assert (await rig.show(str(campaign)))["reopening"] == "unknown_sent"


async def test_the_curve_is_drawn_to_the_end(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 100, started_at=1000.0, finished_at=1020.0, status="finished")).id
        async with rig.ledger.write() as connection:
            await history.note(connection, campaign, [Point(1005.0, 20, 0), Point(1015.0, 60, 0)])
            await connection.execute(
                update(Batch).where(col(Batch.campaign_id) == campaign).values(sent=95, failed=5, pending=0)
            )
        page = await visitor.get(f"/campaigns/{campaign}")
        assert "Over 20 s: 4.8 emails sent per second on average, at most 7" in text(page)
        assert page.count('class="touch"') == 20


async def test_a_person_who_types_the_address_of_the_list_gets_it(sqlite_url: str) -> None:
    async with page_on(sqlite_url) as (_, visitor):
        answer = await visitor.client.get("/campaigns")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        visitor.client.cookies.clear()
        answer = await visitor.client.get("/campaigns")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/campaigns")


async def test_campaigns_are_listed_in_pages(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        for number in range(30):
            await rig.create(0, name=f"Number {number}")
        first = await visitor.get("/")
        older = re.search(r'rel="next" href="([^"]+)"', first)
        assert older
        second = await visitor.get(older[1].replace("&amp;", "&"))
        shown = [re.findall(r">(Number \d+)<", page) for page in (first, second)]
        assert shown == [[f"Number {one}" for one in range(29, 4, -1)], [f"Number {one}" for one in range(4, -1, -1)]]
        assert 'rel="next"' not in second
        assert "There are no campaigns here" in await visitor.get("/?show=closed")
        assert ">Number 29<" in await visitor.get("/?show=planned&cursor=" + str(UUID(int=2**127)))
        await visitor.get("/?show=nonsense", expect=404)


async def test_data_of_another_project_is_not_found(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        other = uuid4()
        async with rig.ledger.write() as connection:
            await connection.execute(insert(Project).values(id=other, name="other", created_at=db_now()))
        campaign = (await seed_campaign(rig.ledger, 3)).id
        async with rig.ledger.write() as connection:
            await connection.execute(
                update(Campaign).where(col(Campaign.id) == campaign).values(project_id=other, name="Secret")
            )
        assert "Secret" not in await visitor.get("/")
        for part in ("", "/failures", "/recipients", "/message"):
            page = await visitor.get(f"/campaigns/{campaign}{part}", expect=404)
            assert "Secret" not in page
        own = await rig.create(1)
        token = await visitor.get(f"/campaigns/{own}")
        moved = token.replace(own, str(campaign))
        await visitor.post(moved, f"/campaigns/{campaign}/send", expect=404)


async def test_suppressions_are_added_found_and_removed(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        page = await visitor.get("/suppressions")
        added = await visitor.post(
            page, "/suppressions", emails="Ann@example.test, bob@example.test\r\nann@example.test", detail="by phone"
        )
        page = await visitor.get(added.headers["location"])
        assert "2 addresses added." in page
        assert "by phone" in page
        found = await visitor.get("/suppressions?email=ANN@example.test")
        assert "Ann@example.test" in found
        assert "bob@example.test" not in found
        wrong = await visitor.post(page, "/suppressions", expect=422, emails="carl@example.test nobody")
        assert "carl@example.test nobody" in wrong.text
        await visitor.get("/suppressions?email=nobody", expect=422)
        await visitor.client.post(
            "/suppressions/remove",
            data={"csrf": re.search('name="csrf" value="([^"]+)"', page)[1], "email": "bob@example.test"},  # type: ignore[index]
        )
        listed = (await rig.get("/v1/suppressions"))["data"]
        assert [(one["email"], one["reason"]) for one in listed] == [("Ann@example.test", "manual")]


async def test_a_person_is_erased_and_shown_without_an_address(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        page = await visitor.get("/suppressions")
        erased = await visitor.post(page, "/suppressions/erase", email="Ann@example.test")
        page = await visitor.get(erased.headers["location"])
        assert "The person is being erased" in page
        assert "Erased person" in page
        assert "ann@example.test" not in page.lower()
        assert "Erased person" in await visitor.get("/suppressions?email=ann@example.test")
        assert "Erased person" not in await visitor.get("/suppressions?email=bob@example.test")
        await visitor.post(page, "/suppressions/erase", expect=422, email="no address")
        campaign = await rig.create(["ann@example.test", "bob@example.test"])
        assert await rig.emails(campaign) == ["bob@example.test"]
        found = await visitor.get("/suppressions?email=ann@example.test")
        early = await visitor.post(found, "/suppressions/remove", expect=409, email="ann@example.test")
        assert "still being erased" in early.text


async def test_many_suppressions_are_counted_before_they_are_removed(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        page = await visitor.get("/suppressions")
        await visitor.post(page, "/suppressions", emails="ann@example.test bob@example.test")
        counted = await visitor.post(page, "/suppressions/remove-matching", expect=200, reason="manual")
        assert "2 addresses" in counted.text
        assert len((await rig.get("/v1/suppressions"))["data"]) == 2
        gone = await visitor.post(counted.text, "/suppressions/remove-matching", reason="manual", sure="yes")
        assert "2 addresses removed." in await visitor.get(gone.headers["location"])
        assert (await rig.get("/v1/suppressions"))["data"] == []
        await visitor.post(page, "/suppressions/remove-matching", expect=422)


async def test_a_campaign_that_a_breaker_paused_asks_what_to_do(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 10)).id
        paused = {"status": "paused", "breaker": "relay", "reason": "mx"}
        async with rig.ledger.write() as connection:
            await connection.execute(update(Batch).values(state="waiting"))
            await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(**paused))
        page = await visitor.get(f"/campaigns/{campaign}")
        assert "Resume, retry the refused" in page
        assert "Resume, keep them failed" in page
        await visitor.post(page, f"/campaigns/{campaign}/resume", refused="keep")
        shown = await rig.get(f"/v1/campaigns/{campaign}")
        assert (shown["status"], shown["breaker"]) == ("queued", None)


async def test_without_a_broker_the_services_are_still_shown(database_url: str) -> None:
    async with page_on(database_url) as (_rig, visitor):
        said = text(await visitor.get("/services"))
        assert "The broker cannot be reached now" in said
        assert "No sender is alive" in said


async def test_the_services_say_whether_more_senders_would_help_and_what_rests(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 10, name="Spring news")).id
        relay = {"name": "mx.example:25", "state": "up", "connections": 4, "in_flight": 4, "connections_limit": 4}
        rests = {"reason": "421 4.7.0 try later", "resting_for_seconds": 60.0}
        batch = {"batch_id": 1, "campaign_id": str(campaign), "generation": 1, "done": 3, "in_flight": 4}
        for number, own in ((1, {**relay, "reason": ""}), (2, {**relay, **rests, "state": "resting"})):
            own["resting_providers"] = [{"name": "big-mail", **rests}]
            async with rig.ledger.write() as connection:
                await instances.seen(
                    connection,
                    instance=f"sender-{number}@mail",
                    service="sender",
                    slot=f"sender-{number}",
                    slots=1,
                    detail={
                        "emails_done": 3,
                        "emails_per_second": 0.01,
                        "batches": [{**batch, "idle_seconds": 1.0, "age_seconds": 9.0}],
                        "relays": [own],
                    },
                )
        page = await visitor.get("/services")
        said = text(page)
        assert "Would more senders help? Perhaps." in said
        assert "Suggested: 4 senders" in said, "10 emails at 0.01 emails/s each, in five minutes"
        assert "Resting for 1 of 2" in said
        assert said.count("mx.example:25") == 2, "once as a relay, and once where a provider rests"
        assert "sender-2 until" in said
        assert "big-mail" in said
        assert said.count("Spring news") == 2, "each sender holds a batch of it"


async def test_a_page_says_when_the_database_is_away(tmp_path: object, sqlite_url: str) -> None:
    async with page_on(sqlite_url) as (rig, visitor):
        await rig.ledger.close()
        path = sqlite_url.partition("///")[2]
        async with asyncio.timeout(30):
            await asyncio.to_thread(_break, path)
            page = await visitor.client.get("/")
        assert page.status_code in (500, 503)
        assert "<h1>" in page.text


def _break(path: str) -> None:
    for name in ("", "-wal", "-shm"):
        Path(path + name).unlink(missing_ok=True)
    Path(path).mkdir()


async def test_the_stream_of_a_closed_campaign_ends(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await seed_campaign(rig.ledger, 3, status="finished", finished_at=db_now())).id
        events = await visitor.get(f"/campaigns/{campaign}/live")
        names = re.findall(r"^event: (.+)$", events, re.MULTILINE)
        assert names == ["announcement", "state", "progress", "chart", "imports", "buttons", "timeline", "over"]
        paused = (await seed_campaign(rig.ledger, 3, status="paused")).id
        page = await visitor.get(f"/campaigns/{paused}")
        connect = re.search(r'sse-connect="([^"]+)"', page)
        assert connect
        async with rig.ledger.write() as connection:
            await connection.execute(
                update(Campaign).where(col(Campaign.id) == paused).values(status="cancelled", finished_at=db_now())
            )
        events = await visitor.get(connect[1].replace("&amp;", "&"))
        assert "timeline" not in re.findall(r"^event: (.+)$", events, re.MULTILINE), "it was shown already"


async def test_a_stream_sends_what_has_changed_until_the_session_is_over(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        here = await session.resume(rig.api, visitor.client.cookies["vashsender"])
        assert here
        looks = [Parts({"a": "1", "b": "1"}), Parts({"a": "1", "b": "2"}), Parts({"a": "1", "b": "2"}, over=True)]
        seen = looks[0].seen()
        pending = iter(looks)

        async def look() -> Parts:
            return next(pending)

        events = [event async for event in live.stream(rig.api, here, look, seen)]
        assert [(event.event, event.raw_data) for event in events] == [("b", "2"), (live.OVER, "")]

        async def gone() -> Parts:
            raise NotFoundError("campaign with this id")

        assert [event.event async for event in live.stream(rig.api, here, gone, "")] == [live.OVER]
        rig.api.stopping.set()
        assert [event async for event in live.stream(rig.api, here, look, "")] == []


FRAME = re.compile(r'<iframe [^>]*src="([^"]+)"')
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHOWN = {
    "subject": "{{ first_name }}, our news",
    "html": "<!doctype html><html><head><title>x</title></head><body><script>alert(1)</script>Hello {{ first_name }} "
    '<img src="cid:logo" alt="Logo"> *|FNAME|*</body></html>',
    "text": "Hello {{ first_name }}",
    "attachments": [{"filename": "l.png", "content_type": "image/png", "content": PIXEL, "content_id": "logo"}],
    "recipients": [
        {"email": "ann@example.test", "data": {"first_name": "Ann"}},
        {"email": "bob@example.test", "data": {"first_name": "Bob <b>"}},
    ],
}


async def test_the_message_is_shown_as_one_recipient_sees_it(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await rig.post("/v1/campaigns", {**campaign_body(), **SHOWN}, 201))["id"]
        base = f"/campaigns/{campaign}/message"
        page = await visitor.get(base)
        assert "Ann, our news" in text(page)
        assert "Hello {{ first_name }}" in unescape(await visitor.get(f"{base}?part=source"))
        assert "Html, line 1, column" in text(page)
        page = await visitor.get(f"{base}?email=bob@example.test")
        assert "Bob <b>, our news" in text(page)
        source = unescape(FRAME.search(page)[1])  # type: ignore[index]
        assert "email=bob%40example.test" in source
        frame = await visitor.client.get(source)
        assert "Hello Bob &lt;b&gt;" in frame.text
        assert f"data:image/png;base64,{PIXEL}" in frame.text
        assert "Hello Bob <b>" in unescape(await visitor.get(f"{base}?email=bob@example.test&part=text"))
        assert "List-Unsubscribe-Post" in await visitor.get(f"{base}?part=headers")
        page = await visitor.get(f"{base}?email=eve@example.test", expect=422)
        assert "is not a recipient of this campaign" in text(page)
        await visitor.get(f"{base}?width=huge", expect=404)


async def test_nothing_runs_or_loads_in_the_frame_of_a_message_unless_asked(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = (await rig.post("/v1/campaigns", {**campaign_body(), **SHOWN}, 201))["id"]
        page = await visitor.client.get(f"/campaigns/{campaign}/message")
        assert 'sandbox=""' in page.text
        policy = page.headers["content-security-policy"]
        assert "frame-src 'self'" in policy
        assert "unsafe-inline" not in policy
        for images, allowed in (("attached", "img-src data:;"), ("all", "img-src data: https: http:;")):
            frame = await visitor.client.get(f"/campaigns/{campaign}/message/html?images={images}")
            policy = frame.headers["content-security-policy"]
            assert policy.startswith("sandbox; default-src 'none';")
            assert allowed in policy
            assert "script-src" not in policy
            assert frame.headers["referrer-policy"] == "no-referrer"
        dark = (await visitor.client.get(f"/campaigns/{campaign}/message/html?scheme=dark")).text
        assert dark.startswith('<!doctype html><meta name="color-scheme" content="dark">')
        styles = "<style>@media ( Prefers-Color-Scheme : dark ) {}</style><p>x</p>"
        await rig.request("PATCH", f"/v1/campaigns/{campaign}", json={"html": styles, "attachments": []})
        for scheme, condition in (("dark", "@media (min-width: 0) {}"), ("light", "@media (max-width: 0) {}")):
            answer = await visitor.client.get(f"/campaigns/{campaign}/message/html?scheme={scheme}")
            assert condition in answer.text
        await visitor.client.aclose()
        answer = await Visitor.of(rig).client.get(f"/campaigns/{campaign}/message/html")
        assert answer.headers["location"].startswith("/sign-in")


async def test_a_message_without_recipients_or_with_a_value_that_cannot_be_sent_says_so(database_url: str) -> None:
    async with page_on(database_url) as (rig, visitor):
        campaign = await rig.create(subject="{{ first_name }}", html="<p>Hello</p>")
        page = text(await visitor.get(f"/campaigns/{campaign}/message"))
        assert "This email would fail" in page
        assert "[first_name]" in page
        campaign = await rig.create(text="Only text, {{ first_name|default('you') }}")
        page = await visitor.get(f"/campaigns/{campaign}/message")
        assert "Only text, you" in page
        assert "<iframe" not in page
