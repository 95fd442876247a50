"""Retention: results of campaigns that ended long ago are deleted, in steps that any process continues, and never
because of a wrong clock. Counts and a summary stay."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import func, insert, select, update
from sqlmodel import SQLModel, col

from services.feedback.addresses import Addresses
from shared.email_tokens import EmailTokens, TokenMaker
from shared.feedback.meaning import Found, Kind
from shared.ledger import domains, hashed, outbox, projects, report_people, reports, timeline
from shared.ledger.database import Ledger, clock, db_now
from shared.ledger.facts import Fact, FactType
from shared.ledger.forgetting import deletion, due, lease
from shared.ledger.forgetting import run as running
from shared.ledger.forgetting.deletion import Deleted
from shared.ledger.forgetting.run import Forgetter, Rules
from shared.ledger.forgetting_tables import ForgottenCampaign, ForgottenPeople
from shared.ledger.models import DEFAULT_PROJECT, Bookmark, Campaign, Import, Recipient, Suppression
from shared.ledger.outbox_tables import EventStream, Outbox
from shared.ledger.report_tables import Report
from shared.signing import Use, derived_key
from tests.support.api import SECRET_KEY, ApiRig, api_on
from tests.support.ended import DAY_SECONDS, ended_campaign, id_made
from tests.support.feedback_corpus import TOKEN, arf, dsn, group
from tests.support.ledger import add_campaign, campaign_row, counts_by_status, timeline_of
from tests.support.visitor import Visitor, forms, text

LINK_KEY = derived_key(SECRET_KEY.encode(), Use.UNSUBSCRIBE)
ROOTS = (derived_key(LINK_KEY, Use.HASHED),)
RULES = Rules(default_days=30, steady_seconds=0.0, settled_seconds=0.0)


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


def forgetter(
    ledger: Ledger, owner: str = "api-1", rules: Rules = RULES, observe: Callable[[Deleted], None] = lambda _: None
) -> Forgetter:
    return Forgetter(ledger, owner, ROOTS, rules, observe)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BUSY_PAUSES", 0.0)
    monkeypatch.setattr(running, "IDLE_PAUSES", 0.0)


async def rows(ledger: Ledger, model: type[SQLModel], campaign_id: UUID) -> int:
    async with ledger.read() as connection:
        of_it: Any = model.campaign_id  # type: ignore[attr-defined]
        return int(await connection.scalar(select(func.count()).where(of_it == campaign_id)) or 0)


async def left(ledger: Ledger, campaign_id: UUID) -> int:
    return await rows(ledger, Recipient, campaign_id)


async def is_forgotten(ledger: Ledger, campaign_id: UUID) -> bool:
    return (await campaign_row(ledger, campaign_id)).forgotten_at is not None


async def test_what_is_past_its_retention_goes_and_its_counts_and_summary_stay(api: ApiRig) -> None:
    old = await ended_campaign(api.ledger, 250, days_ago=31, failed=20)
    new = await ended_campaign(api.ledger, 10, days_ago=29)
    before = await counts_by_status(api.ledger, old)
    result = await forgetter(api.ledger).run()
    assert (result.is_ours, result.doubt, result.marked, result.ended) == (True, "", 1, 1)
    assert (await left(api.ledger, old), await left(api.ledger, new)) == (0, 10)
    assert await counts_by_status(api.ledger, old) == before == {"total": 250, "sent": 230, "failed": 20}
    shown = await api.show(str(old))
    assert shown["forgotten_at"] is not None
    assert shown["counts"]["failed"] == 20
    assert (shown["subject"], shown["text"], shown["attachments"]) == ("News of {{ city }}", None, [])
    assert shown["reason"] == "… was last"
    forgotten = shown["forgotten"]
    assert (forgotten["days"], forgotten["is_done"], forgotten["recipients"]) == (30, True, 250)
    assert forgotten["refusals"] == [
        {"status": "failed", "code": "550 5.1.1", "text": "550 5.1.1 …: no such user", "number": 20}
    ]
    assert [kind for kind, _ in await timeline_of(api.ledger, old)] == ["forgotten"]
    assert not await is_forgotten(api.ledger, new)
    again = await forgetter(api.ledger).run()
    assert (again.marked, again.ended) == (0, 0)


async def test_what_needs_the_results_answers_when_they_were_deleted(api: ApiRig) -> None:
    old = await ended_campaign(api.ledger, days_ago=31)
    await forgetter(api.ledger).run()
    here = f"/v1/campaigns/{old}"
    problem = await api.get(f"{here}/recipients", 410)
    assert problem["type"] == "urn:vashsender:problem:forgotten"
    assert problem["forgotten_at"][:10] == time.strftime("%Y-%m-%d", time.gmtime())
    assert "the retention of its project" in problem["detail"]
    for path in ("recipients?status=failed", "recipients?reported=bounced", "recipients/export"):
        await api.get(f"{here}/{path}", 410)
    await api.get("/v1/reports", 410, campaign_id=str(old))
    people = {"recipients": [{"email": "ann@example.test"}]}
    bodies: dict[str, object] = {
        **{key: {} for key in ("retry-failed", "send", "pause", "resume", "cancel", "preview")},
        "resolve-unknown": {"as": "sent"},
        "test": people,
    }
    for action, body in bodies.items():
        await api.post(f"{here}/{action}", body, 410)
    await api.request("PATCH", here, 410, json={"name": "New"})
    await api.request("DELETE", here, 410)
    await api.get(f"{here}/timeline")
    assert [one["id"] for one in (await api.get("/v1/campaigns"))["data"]] == [str(old)]


async def test_each_project_has_its_retention_and_none_keeps_for_ever(api: ApiRig) -> None:
    async with api.ledger.write() as connection:
        shop, archive = [(await projects.create(connection, name)).id for name in ("shop", "archive")]
    patched = await api.request("PATCH", f"/v1/projects/{shop}", json={"retention_days": 7})
    assert patched["retention_days"] == 7
    await api.request("PATCH", f"/v1/projects/{archive}", json={"retention_days": 0})
    await api.request("PATCH", f"/v1/projects/{shop}", 422, json={"retention_days": -1})
    of_shop = await ended_campaign(api.ledger, days_ago=8, project_id=shop)
    of_archive = await ended_campaign(api.ledger, days_ago=1000, project_id=archive)
    of_default = await ended_campaign(api.ledger, days_ago=1000)
    for_ever = Rules(default_days=0, steady_seconds=0.0, settled_seconds=0.0)
    assert (await forgetter(api.ledger, rules=for_ever).run()).marked == 1
    assert [await is_forgotten(api.ledger, one) for one in (of_shop, of_archive, of_default)] == [True, False, False]
    async with api.ledger.read() as connection:
        shown = {one.project: one for one in await due.preview(connection, 30)}
    assert (shown["default"].days, shown["default"].is_own, shown["default"].due_campaigns) == (30, False, 1)
    assert (shown["shop"].days, shown["shop"].kept_campaigns, shown["archive"].due_recipients) == (7, 0, 0)
    assert shown["default"].due_recipients == 10
    assert shown["default"].due_bytes > 0


async def test_campaigns_that_have_not_ended_stay(ledger: Ledger) -> None:
    ids = [
        await add_campaign(ledger, 3, status=status, id=id_made(100))
        for status in ("draft", "scheduled", "queued", "sending", "paused", "stopping")
    ]
    reopening = await ended_campaign(ledger, days_ago=100)
    async with ledger.write() as connection:
        await connection.execute(update(Campaign).values(created_at=db_now() - 100 * DAY_SECONDS, started_at=None))
        await connection.execute(update(Campaign).where(col(Campaign.id) == reopening).values(reopen="failed"))
    assert (await forgetter(ledger).run()).marked == 0
    assert [await left(ledger, one) for one in (*ids, reopening)] == [3] * 6 + [10]


class CrashError(Exception):
    """The process dies here."""


@pytest.mark.parametrize("survives", [0, 2, 3, 5])
async def test_a_process_that_dies_between_two_steps_is_continued_by_another(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    monkeypatch.setattr(running, "ROWS_AT_ONCE", 100)
    campaigns = [await ended_campaign(ledger, 230, days_ago=40, failed=30, batch_size=40) for _ in range(2)]
    steps = 0

    def die(_: Deleted) -> None:
        nonlocal steps
        steps += 1
        if steps > survives:
            raise CrashError

    with pytest.raises(CrashError):
        await forgetter(ledger, "first", observe=die).run()
    result = await forgetter(ledger, "second").run()
    assert result.is_ours
    assert result.marked == 0
    for campaign in campaigns:
        assert await left(ledger, campaign) == 0
        async with ledger.read() as connection:
            row = (
                await connection.execute(
                    select(
                        col(ForgottenCampaign.recipients),
                        col(ForgottenCampaign.refusals),
                        col(ForgottenCampaign.ended_at),
                    ).where(col(ForgottenCampaign.campaign_id) == campaign)
                )
            ).one()
            people = await connection.scalars(
                select(col(ForgottenPeople.people)).where(col(ForgottenPeople.campaign_id) == campaign)
            )
            kept = sum(len(one) for one in people)
        assert row.recipients == 230
        assert row.ended_at is not None
        assert row.refusals == '[["failed","550 5.1.1","550 5.1.1 …: no such user",30]]'
        assert kept == 230 * 34, "each recipient is kept once"


async def test_a_step_that_is_cut_off_in_its_transaction_changes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await ended_campaign(ledger, 50, days_ago=40)
    whole = deletion.delete_some

    async def cut_off(*arguments: Any) -> Deleted | None:
        await whole(*arguments)
        raise CrashError

    monkeypatch.setattr(deletion, "delete_some", cut_off)
    with pytest.raises(CrashError):
        await forgetter(ledger).run()
    assert await left(ledger, campaign) == 50
    assert await rows(ledger, ForgottenPeople, campaign) == 0
    monkeypatch.setattr(deletion, "delete_some", whole)
    assert (await forgetter(ledger).run()).ended == 1
    assert await left(ledger, campaign) == 0


async def test_of_two_processes_one_deletes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROWS_AT_ONCE", 20)
    campaign = await ended_campaign(ledger, 100, days_ago=40)
    at_work, go_on = asyncio.Event(), asyncio.Event()
    deleted: dict[str, int] = {"first": 0, "second": 0}

    def count(name: str) -> Callable[[Deleted], None]:
        def add(step: Deleted) -> None:
            deleted[name] += step.rows
            at_work.set()

        return add

    wait = asyncio.sleep

    async def held_up(seconds: float) -> None:
        await (go_on.wait() if at_work.is_set() else wait(seconds))

    monkeypatch.setattr(asyncio, "sleep", held_up)
    first = asyncio.create_task(forgetter(ledger, "first", observe=count("first")).run())
    await at_work.wait()
    second = await forgetter(ledger, "second", observe=count("second")).run()
    assert not second.is_ours
    assert second.marked == 0
    go_on.set()
    assert (await first).ended == 1
    assert deleted == {"first": 100, "second": 0}
    assert await left(ledger, campaign) == 0
    assert (await forgetter(ledger, "second").run()).is_ours, "the first has let go"


async def test_a_process_that_stood_still_finds_that_another_has_taken_over(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "ROWS_AT_ONCE", 20)
    campaign = await ended_campaign(ledger, 100, days_ago=40)
    steps: list[str] = []

    async def stand_still(_: float) -> None:
        """The lease of the first process runs out, and a second one does the rest."""
        if steps == ["first"]:
            async with ledger.write() as connection:
                await connection.execute(
                    update(Bookmark).values(value=func.replace(Bookmark.value, '"until":', '"was":'))
                )
            result = await forgetter(ledger, "second", observe=lambda _: steps.append("second")).run()
            assert result.is_ours
            assert result.ended == 1
            async with ledger.write() as connection:
                assert await lease.hold(connection, "third") is not None

    monkeypatch.setattr(asyncio, "sleep", stand_still)
    result = await forgetter(ledger, "first", observe=lambda _: steps.append("first")).run()
    assert not result.is_ours
    assert result.ended == 0
    assert steps == ["first", *["second"] * 4]
    assert await left(ledger, campaign) == 0


@pytest.mark.parametrize("first", ["retry", "mark"])
async def test_a_campaign_is_reopened_or_forgotten_but_never_both(api: ApiRig, first: str) -> None:
    """Both have seen the campaign as it was before either has changed it."""
    campaign = await ended_campaign(api.ledger, days_ago=40)
    async with api.ledger.read() as connection:
        [seen] = await due.due(connection, 30, 10)
    if first == "retry":
        await api.post(f"/v1/campaigns/{campaign}/retry-failed")
        async with api.ledger.write() as connection:
            assert not await deletion.begin(connection, seen)
    else:
        async with api.ledger.write() as connection:
            assert await deletion.begin(connection, seen)
        await api.post(f"/v1/campaigns/{campaign}/retry-failed", {}, 410)
    row = await campaign_row(api.ledger, campaign)
    expected = ("queued", "failed", False) if first == "retry" else ("finished", None, True)
    assert (row.status, row.reopen, row.forgotten_at is not None) == expected
    assert await left(api.ledger, campaign) == 10


async def test_retries_and_marks_at_the_same_time(api: ApiRig) -> None:
    """On PostgreSQL they wait for each other's lock of the campaign, in either order."""
    campaigns = [await ended_campaign(api.ledger, days_ago=40) for _ in range(10)]

    async def retry(campaign: UUID) -> int:
        answer = await api.client.post(f"/v1/campaigns/{campaign}/retry-failed", json={})
        return answer.status_code

    answers, _ = await asyncio.gather(
        asyncio.gather(*(retry(campaign) for campaign in campaigns)), forgetter(api.ledger).run()
    )
    for campaign, answer in zip(campaigns, answers, strict=True):
        row = await campaign_row(api.ledger, campaign)
        if answer == 202:
            assert (row.status, row.forgotten_at) == ("queued", None)
            assert await left(api.ledger, campaign) == 10
        else:
            assert answer == 410
            assert row.status == "finished"
            assert await left(api.ledger, campaign) == 0


async def forgotten_person(api: ApiRig) -> tuple[UUID, EmailTokens, str]:
    """A campaign whose results are deleted, and the tokens and the address of its first recipient."""
    campaign = await ended_campaign(api.ledger, 5, days_ago=40)
    async with api.ledger.read() as connection:
        found = await connection.execute(
            select(col(Recipient.id), col(Recipient.email))
            .where(col(Recipient.campaign_id) == campaign)
            .order_by(col(Recipient.id))
        )
        person = found.all()[0]
    return campaign, TokenMaker(LINK_KEY, campaign).make(person.id), person.email


async def suppressed(ledger: Ledger) -> list[tuple[str, str, UUID | None]]:
    async with ledger.read() as connection:
        columns = (col(Suppression.email), col(Suppression.reason), col(Suppression.campaign_id))
        return [(row[0], row[1], row[2]) for row in await connection.execute(select(*columns))]


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "marked"])
async def test_a_late_unsubscribe_still_suppresses(api: ApiRig, deleted: bool) -> None:
    """Also between the mark and the deletion."""
    campaign, tokens, email = await forgotten_person(api)
    await forgetter(api.ledger, rules=RULES if deleted else Rules(30, 0.0, 3600.0)).run()
    asked = await api.client.get(f"/u/{tokens.link}")
    assert asked.status_code == 200
    assert ("<strong>•••</strong>" if deleted else "r•••@example.com") in asked.text
    assert not await suppressed(api.ledger)
    for _ in range(2):
        assert (await api.client.post(f"/u/{tokens.link}")).status_code == 200
    assert await suppressed(api.ledger) == [("" if deleted else email, "unsubscribed", campaign)]
    async with api.ledger.read() as connection:
        key = email if not deleted else None
        hashed_out = await hashed.suppressed_among(connection, ROOTS, DEFAULT_PROJECT, [email, "other@example.com"])
        plain = await connection.scalar(select(func.count()).where(col(Suppression.email_key) == key))
    assert (list(hashed_out), plain) == (([email], 0) if deleted else ([], 1))
    forged = TokenMaker(b"another key that is long enough", campaign).make(1)
    assert (await api.client.post(f"/u/{forged.link}")).status_code == 404
    assert (await api.client.post(f"/u/{tokens.mail}")).status_code == 404, "a mail token is no link"


async def test_without_its_secret_nothing_is_deleted_and_no_link_is_lost(api: ApiRig) -> None:
    """The installation's secret was changed without keeping the former one."""
    _, tokens, _ = await forgotten_person(api)
    await forgetter(api.ledger).run()
    other = await ended_campaign(api.ledger, days_ago=40)
    foreign = Forgetter(api.ledger, "api-2", [derived_key(b"another secret", Use.HASHED)], RULES, lambda _: None)
    with pytest.raises(hashed.SealedSecretError):
        await foreign.run()
    assert await left(api.ledger, other) == 10
    assert (await api.client.post(f"/u/{tokens.link}")).status_code == 200
    assert (await forgetter(api.ledger).run()).ended == 1


async def test_late_reports_change_nothing_but_suppress_who_complains(api: ApiRig) -> None:
    campaign, tokens, _ = await forgotten_person(api)
    before = await counts_by_status(api.ledger, campaign)
    await forgetter(api.ledger).run()
    bounce = dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", group("failed", "5.1.1", "550 5.1.1 No"))

    async def give(octets: bytes) -> Any:
        octets = octets.replace(TOKEN.encode(), tokens.mail.encode())
        headers = {"Content-Type": "message/rfc822"}
        return await api.request("POST", "/v1/feedback/raw", content=octets, headers=headers)

    taken = await give(bounce)
    assert (taken["result"], taken["kind"], taken["report_id"]) == ("forgotten", "bounced", None)
    assert not await suppressed(api.ledger)
    assert (await give(arf("abuse")))["result"] == "forgotten"
    assert await suppressed(api.ledger) == [("", "complained", campaign)]
    assert await rows(api.ledger, Report, campaign) == 0
    assert await counts_by_status(api.ledger, campaign) == before
    doors = Addresses(api.ledger, [LINK_KEY])
    async with asyncio.TaskGroup() as group_of_tasks:
        looking = group_of_tasks.create_task(doors.run())
        async with api.ledger.write() as connection:
            added = await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
            await domains.set_bounce_domain(connection, added, "bounces.example.com")
        assert await doors.check(f"unsubscribe+{tokens.mail}@bounces.example.com") == DEFAULT_PROJECT
        looking.cancel()


async def test_reports_and_what_else_names_people_goes(api: ApiRig) -> None:
    campaign, tokens, email = await forgotten_person(api)
    async with api.ledger.write() as connection:
        person = await report_people.identify(connection, [LINK_KEY], [tokens.link])
        assert person is not None
        said = Found(Kind.BOUNCED, code=550, enhanced="5.1.1", text=f"<{email}> unknown")
        await reports.record(connection, [reports.Incoming(said, "d" * 64, "api", person)])
        await timeline.record(connection, campaign, "note", f"{email} asked")
        problems = orjson.dumps([{"line": 3, "error": "is no address", "value": "ann@@example.com"}]).decode()
        await connection.execute(
            insert(Import).values(
                campaign_id=campaign,
                format="csv",
                state="done",
                invalid=1,
                problems=problems,
                created_at=db_now(),
                updated_at=db_now(),
            )
        )
    counted = await counts_by_status(api.ledger, campaign)
    assert counted["bounced"] == 1
    await forgetter(api.ledger).run()
    assert await rows(api.ledger, Report, campaign) == 0
    assert await counts_by_status(api.ledger, campaign) == counted
    assert ("note", "… asked") in await timeline_of(api.ledger, campaign)
    [imported] = (await api.get(f"/v1/campaigns/{campaign}/imports"))["data"]
    assert (imported["invalid"], imported["problems"]) == (1, [])
    forgotten = (await api.show(str(campaign)))["forgotten"]
    assert (forgotten["reports"], forgotten["recipients"]) == (1, 5)
    assert {"status": "bounced", "code": "550 5.1.1", "text": "no such mailbox", "number": 1} in forgotten["refusals"]


async def test_events_of_a_project_go_with_its_retention(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        shop = (await projects.create(connection, "shop")).id
        await connection.execute(insert(EventStream).values(project_id=shop, wanted=True))
        await outbox.tell(connection, shop, [Fact(FactType.WEBHOOK_TEST)])
        await connection.execute(update(Outbox).values(at=db_now() - 3 * DAY_SECONDS))
    await outbox.place(ledger)
    week = 7 * DAY_SECONDS
    assert await outbox.forget(ledger, week, 100) == 0
    assert await outbox.forget(ledger, week, 100, default_days=4) == 0
    async with ledger.write() as connection:
        project = await projects.find(connection, project_id=shop)
        assert project is not None
        await projects.change(connection, project, {"retention_days": 2})
    assert await outbox.forget(ledger, week, 100, default_days=4) == 1


async def test_the_page_shows_what_is_left_and_sets_the_retention(api: ApiRig) -> None:
    campaign, _, _ = await forgotten_person(api)
    operator = await Visitor.signed_in(api)
    page = await operator.get("/access/projects")
    hidden = forms(page)["/access/projects/retention"]
    for days, said in (("30", "30 days"), ("0", "For ever"), ("", "by the setting")):
        answer = await operator.client.post("/access/projects/retention", data=hidden | {"retention_days": days})
        assert answer.status_code == 303
        assert said in await operator.get("/access/projects")
    wrong = await operator.client.post("/access/projects/retention", data=hidden | {"retention_days": "-1"})
    assert wrong.status_code == 422
    await forgetter(api.ledger).run()
    shown = text(await operator.get(f"/campaigns/{campaign}"))
    assert "Results deleted" in shown
    assert "no such user" in shown
    for part in ("failures", "recipients", "message", "recipients/export", "reports"):
        assert "after the retention of its project" in text(await operator.get(f"/campaigns/{campaign}/{part}", 410))


async def jump(ledger: Ledger, days: float) -> None:
    """The database's clock is set: by it, everything in the ledger is older by so many days."""
    async with ledger.write() as connection:
        for moment in (Campaign.created_at, Campaign.started_at, Campaign.finished_at):
            await connection.execute(update(Campaign).values({moment: col(moment) - days * DAY_SECONDS}))


async def test_a_wrong_clock_of_the_database_deletes_nothing(ledger: Ledger) -> None:
    """The campaign's id says when it was made, by the clock of another process."""
    campaign = await ended_campaign(ledger, days_ago=2)
    await jump(ledger, 1000)
    assert (await forgetter(ledger).run()).marked == 0
    assert await left(ledger, campaign) == 10


async def test_a_wrong_clock_of_the_process_deletes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = await ended_campaign(ledger, days_ago=2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1000 * DAY_SECONDS)
    result = await forgetter(ledger).run()
    assert result.marked == 0
    assert "differ by 86400000 s" in result.doubt
    assert await left(ledger, campaign) == 10


@pytest.mark.parametrize("step", [-3600.0, 1000 * DAY_SECONDS])
async def test_a_step_of_all_clocks_makes_retention_wait(ledger: Ledger, step: float) -> None:
    """After a step nothing is marked until the clock has run evenly for a day; what was before does not count."""
    campaign = await ended_campaign(ledger, days_ago=31)
    careful = Rules(default_days=30, steady_seconds=DAY_SECONDS, settled_seconds=0.0)
    result = await forgetter(ledger, rules=careful).run()
    assert result.marked == 0
    assert "is watched for 86400 s more" in result.doubt

    async def watched(since: float, last: float) -> None:
        async with ledger.write() as connection:
            now = await clock(connection)
            value: dict[str, object] = {"owner": None, "until": 0.0, "steady_since": now - since, "seen_at": now - last}
            await lease._write(connection, value)

    await watched(2 * DAY_SECONDS, step)
    assert (await forgetter(ledger, rules=careful).run()).marked == 0
    await watched(DAY_SECONDS - 60, 60)
    assert (await forgetter(ledger, rules=careful).run()).marked == 0
    await watched(DAY_SECONDS + 60, 60)
    assert (await forgetter(ledger, rules=careful).run()).marked == 1
    assert await left(ledger, campaign) == 0


async def test_deletion_waits_until_older_transactions_have_ended(ledger: Ledger) -> None:
    campaign = await ended_campaign(ledger, days_ago=31)
    result = await forgetter(ledger, rules=Rules(30, 0.0, 3600.0)).run()
    assert (result.marked, result.ended, result.waiting) == (1, 0, 1)
    assert await is_forgotten(ledger, campaign)
    assert await left(ledger, campaign) == 10
    assert (await forgetter(ledger).run()).ended == 1
