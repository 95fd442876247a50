"""Reports in the ledger: whom they are about, what they change, and what they never change."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update
from sqlmodel import col

from services.api.housekeeping import Housekeeping
from services.api.usecases import erasing
from shared.email_tokens import EmailTokens, TokenMaker
from shared.feedback.meaning import Found, Kind
from shared.ledger import projects, report_people, reports
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient
from shared.ledger.report_effects import FULL
from shared.ledger.report_tables import Report
from shared.ledger.reports import Incoming
from shared.signing import Use, derived_key
from tests.support.api import SECRET_KEY, ApiRig, api_on
from tests.support.feedback_corpus import ANN, LINK, RETURNED, TOKEN, arf, dsn, group

KEY = derived_key(SECRET_KEY.encode(), Use.UNSUBSCRIBE)
RAW = {"Content-Type": "message/rfc822"}
GONE = group("failed", "5.1.1", "550 5.1.1 User unknown")


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def a_sent_campaign(
    api: ApiRig, *emails: str, project_id: UUID = DEFAULT_PROJECT
) -> tuple[str, list[EmailTokens]]:
    """A campaign whose recipients were all sent to, and their tokens."""
    campaign = await api.create(emails or [ANN])
    own = UUID(campaign)
    async with api.ledger.write() as connection:
        found = await connection.execute(
            select(col(Recipient.id)).where(col(Recipient.campaign_id) == own).order_by(col(Recipient.id))
        )
        ids = list(found.scalars())
        await connection.execute(update(Recipient).where(col(Recipient.campaign_id) == own).values(status="sent"))
        batch = {"first_id": ids[0], "last_id": ids[-1], "size": len(ids), "sent": len(ids), "state": "done"}
        await connection.execute(insert(Batch).values(campaign_id=own, due_at=0.0, **batch))
        await connection.execute(
            update(Campaign).where(col(Campaign.id) == own).values(cursor=ids[-1], project_id=project_id)
        )
    make = TokenMaker(KEY, own).make
    return campaign, [make(number) for number in ids]


def about(octets: bytes, tokens: EmailTokens) -> bytes:
    """The same report, about one of our emails."""
    return octets.replace(TOKEN.encode(), tokens.mail.encode()).replace(LINK.encode(), tokens.link.encode())


def a_bounce(tokens: EmailTokens, *groups: str, subject: str = "Undelivered") -> bytes:
    return about(dsn("MAILER-DAEMON@mx.example.net", subject, "x", *(groups or (GONE,))), tokens)


async def give(api: ApiRig, octets: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = await api.request("POST", "/v1/feedback/raw", content=octets, headers=RAW)
    return answer


async def counts(api: ApiRig, campaign: str) -> dict[str, int]:
    found: dict[str, int] = (await api.get(f"/v1/campaigns/{campaign}"))["counts"]
    return found


async def suppressed(api: ApiRig) -> list[tuple[str, str]]:
    return [(one["email"], one["reason"]) for one in (await api.get("/v1/suppressions"))["data"]]


async def test_a_bounce_of_a_gone_mailbox_is_counted_once_and_suppresses(api: ApiRig) -> None:
    campaign, [ann, _] = await a_sent_campaign(api, ANN, "bob@example.net")
    taken = await give(api, a_bounce(ann))
    assert (taken["result"], taken["kind"]) == ("recorded", "bounced")
    assert (await give(api, a_bounce(ann)))["result"] == "repeated"
    assert (await give(api, a_bounce(ann, subject="again, by another server")))["result"] == "recorded"
    found = await counts(api, campaign)
    assert (found["sent"], found["bounced"], found["complained"], found["unsubscribed"]) == (2, 1, 0, 0)
    assert await suppressed(api) == [(ANN, "bounced")]
    [again, first] = (await api.get("/v1/reports", campaign_id=campaign))["data"]
    assert (first["email"], first["why"], first["consequence"]) == (ANN, "no such mailbox", "suppress")
    assert (first["code"], first["enhanced_code"], first["reporter"]) == (550, "5.1.1", "mx.example.net")
    assert again["id"] > first["id"]
    [listed] = (await api.get(f"/v1/campaigns/{campaign}/recipients", reported="bounced"))["data"]
    assert (listed["email"], listed["status"]) == (ANN, "sent")
    [entry] = [one for one in (await api.get(f"/v1/campaigns/{campaign}/timeline"))["data"] if one["kind"] == "bounced"]
    assert (entry["text"], entry["times"]) == ("Bounces came in", 2)
    async with api.ledger.read() as connection:
        gone = await connection.scalar(
            select(func.sum(col(Batch.gone))).where(col(Batch.campaign_id) == UUID(campaign))
        )
    assert gone == 1  # for the breaker of the list


@pytest.mark.parametrize(
    "said",
    [
        group("failed", "5.7.1", "554 5.7.1 Message rejected as spam by Content Filtering"),
        group("failed", "5.2.2", "552 5.2.2 over quota"),
        group("failed", "5.7.1", "550 5.7.1 Service unavailable; client blocked using Spamhaus"),
        group("failed", "5.1.1", "550 5.1.1 User unknown", final="someone.else@elsewhere.example"),
    ],
    ids=["content", "full", "blocklist", "forwarded"],
)
async def test_a_bounce_that_is_not_about_the_mailbox_suppresses_no_one(api: ApiRig, said: str) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    assert (await give(api, a_bounce(ann, said)))["result"] == "recorded"
    assert (await counts(api, campaign))["bounced"] == 1
    assert await suppressed(api) == []


async def test_complaints_and_unsubscribes_suppress(api: ApiRig) -> None:
    campaign, [ann, bob] = await a_sent_campaign(api, ANN, "bob@example.net")
    assert (await give(api, about(arf("abuse"), ann)))["kind"] == "complained"
    rcpt = f"unsubscribe+{bob.mail}@bounces.example.com"
    assert (await give(api, f"From: x@y.example\nTo: {rcpt}\nSubject: \n\n".encode()))["kind"] == "unsubscribed"
    found = await counts(api, campaign)
    assert (found["sent"], found["complained"], found["unsubscribed"]) == (2, 1, 1)
    assert sorted(await suppressed(api)) == [(ANN, "complained"), ("bob@example.net", "unsubscribed")]


async def test_the_link_counts_as_unsubscribed_and_works_again_after_the_suppression_was_removed(api: ApiRig) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    for _ in range(2):
        assert (await api.client.post(f"/u/{ann.link}")).status_code == 200
        assert await suppressed(api) == [(ANN, "unsubscribed")]
        await api.request("DELETE", "/v1/suppressions", 204, params={"email": ANN})
    assert (await counts(api, campaign))["unsubscribed"] == 1
    assert (await api.client.post(f"/u/{ann.mail}")).status_code == 404


@pytest.mark.parametrize("changed", ["forged", "of another key", "none", "of another project"])
async def test_without_a_token_of_the_project_nothing_changes_and_a_person_sees_it(api: ApiRig, changed: str) -> None:
    project_id = DEFAULT_PROJECT
    if changed == "of another project":
        async with api.ledger.write() as connection:
            project_id = (await projects.create(connection, "others")).id
    campaign, [ann] = await a_sent_campaign(api, project_id=project_id)
    async with api.ledger.read() as connection:
        recipient_id = await connection.scalar(select(func.max(col(Recipient.id))))
    assert recipient_id is not None
    octets = {
        "forged": about(dsn("MAILER-DAEMON@x", "x", "y", GONE), EmailTokens("A" * 56, "a" * 32)),
        "of another key": a_bounce(TokenMaker(b"k" * 43, UUID(campaign)).make(recipient_id)),
        "none": dsn("MAILER-DAEMON@x", "x", "y", GONE, returned="").replace(TOKEN.encode(), b""),
        "of another project": a_bounce(ann),
    }[changed]
    assert (await give(api, octets))["result"] == "unverified"
    [shown] = (await api.get("/v1/reports", verified=False))["data"]
    assert (shown["verified"], shown["recipient_id"], shown["email"]) == (False, None, ANN)
    assert await suppressed(api) == []
    async with api.ledger.read() as connection:
        assert await connection.scalar(select(func.sum(col(Batch.bounced)))) == 0


async def test_automatic_replies_leave_nothing(api: ApiRig) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    away = about(
        b"From: ann@example.net\nSubject: Out of office\nAuto-Submitted: auto-replied\n\n" + RETURNED.encode(), ann
    )
    assert (await give(api, away))["result"] == "ignored"
    assert (await give(api, a_bounce(ann, group("delivered", "2.0.0"))))["result"] == "ignored"
    assert (await give(api, a_bounce(ann, group("delayed", "4.4.1"))))["kind"] == "delayed"
    found = await counts(api, campaign)
    assert (found["bounced"], found["complained"], found["unsubscribed"]) == (0, 0, 0)
    assert [one["kind"] for one in (await api.get("/v1/reports"))["data"]] == ["delayed"]


async def test_a_mailbox_that_is_full_for_a_month_is_given_up(api: ApiRig) -> None:
    full = group("failed", "5.2.2", "552 5.2.2 The mailbox is full")
    for number in range(2):
        _, [ann] = await a_sent_campaign(api)
        await give(api, a_bounce(ann, full))
        assert await suppressed(api) == [], number
        async with api.ledger.write() as connection:
            await connection.execute(update(Report).values(at=col(Report.at) - 16 * 86_400.0))
            assert set((await connection.execute(select(col(Report.why)))).scalars()) == {FULL}
    _, [ann] = await a_sent_campaign(api)
    await give(api, a_bounce(ann, full))
    assert await suppressed(api) == [(ANN, "bounced")]


async def test_many_reports_in_one_transaction(api: ApiRig) -> None:
    emails = [f"p{number}@example.net" for number in range(20)]
    campaign, tokens = await a_sent_campaign(api, *emails)
    async with api.ledger.write() as connection:
        incoming = []
        for number, token in enumerate([*tokens, *tokens, *tokens]):
            person = await report_people.identify(connection, [KEY], [token.mail])
            assert person is not None
            found = Found(Kind.BOUNCED, (), 550, "5.1.1", "User unknown", (emails[number % 20],))
            digest = number if number < 20 else number - 20  # the second twenty repeat the first, the third do not
            incoming.append(Incoming(found, f"{digest:064}", "mail", person))
        outcomes = await reports.record(connection, incoming)
    assert [one.result for one in outcomes] == ["recorded"] * 20 + ["repeated"] * 20 + ["recorded"] * 20
    assert (await counts(api, campaign))["bounced"] == 20
    assert len(await suppressed(api)) == 20


async def test_unverified_reports_are_bounded(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "KEPT_UNVERIFIED", 5)
    _, [ann] = await a_sent_campaign(api)
    await give(api, a_bounce(ann))
    for number in range(8):
        await give(api, f"Subject: {number}\n\nhello".encode())
    async with api.ledger.write() as connection:
        assert await reports.trim_unverified(connection) == 3
    assert len((await api.get("/v1/reports"))["data"]) == 6


async def test_who_has_a_token_cannot_fill_the_ledger(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_OF_A_KIND", 3)
    campaign, [ann, bob] = await a_sent_campaign(api, ANN, "bob@example.net")
    answers = [(await give(api, a_bounce(ann, subject=f"Undelivered {number}")))["result"] for number in range(5)]
    assert answers == ["recorded"] * 3 + ["repeated"] * 2
    assert (await give(api, about(arf("abuse"), ann)))["result"] == "recorded"
    assert (await give(api, a_bounce(bob)))["result"] == "recorded"
    assert (await counts(api, campaign))["bounced"] == 2


async def test_of_several_recipients_ours_counts(api: ApiRig) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    gone = group("failed", "5.1.1", "550 5.1.1 User unknown", final="zed@elsewhere.example")
    assert (await give(api, a_bounce(ann, gone, group("delivered", "2.0.0"))))["result"] == "ignored"
    assert (await give(api, a_bounce(ann, gone, group("delayed", "4.4.1", "451 4.4.1 later"))))["kind"] == "delayed"
    assert (await give(api, a_bounce(ann, gone, group("failed", "5.2.2", "552 5.2.2 over quota"))))["kind"] == "bounced"
    [bounced, delayed] = (await api.get("/v1/reports", campaign_id=campaign))["data"]
    assert (bounced["why"], bounced["email"], delayed["kind"]) == (FULL, ANN, "delayed")
    assert await suppressed(api) == []


async def test_delayed_and_then_given_up_is_one_bounce(api: ApiRig) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    late = group("delayed", "4.4.1", "451 4.4.1 later")
    assert [(await give(api, a_bounce(ann, late, subject=f"Delayed {day}")))["kind"] for day in range(2)] == [
        "delayed",
        "delayed",
    ]
    assert (await counts(api, campaign))["bounced"] == 0
    assert (await give(api, a_bounce(ann, group("failed", "4.4.7", "451 4.4.7 expired"))))["kind"] == "bounced"
    assert (await counts(api, campaign))["bounced"] == 1
    assert await suppressed(api) == []


async def test_reports_about_an_erased_person_count_and_bring_no_address_back(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounce with our token, one without, and a click on the link that is still in the mailbox."""
    monkeypatch.setattr(erasing, "SETTLE_SECONDS", -1.0)
    campaign, [tokens] = await a_sent_campaign(api)
    await api.post("/v1/erase", {"email": ANN}, 202)
    await Housekeeping(api.api, "api-test").erase()
    assert (await api.post("/v1/erase", {"email": ANN}, 200))["recipients"] == 1

    assert (await give(api, a_bounce(tokens)))["result"] == "recorded"
    assert (await give(api, dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", GONE)))["result"] == "unverified"
    page = await api.client.post(f"/u/{tokens.link}")
    assert page.status_code == 200

    assert ANN not in page.text
    assert (await counts(api, campaign))["bounced"] == 1
    assert (await counts(api, campaign))["unsubscribed"] == 1
    assert await suppressed(api) == [("", "erased")]
    async with api.ledger.read() as connection:
        found = (await connection.execute(select(Report.__table__))).all()  # type: ignore[attr-defined]
    assert len(found) == 3
    assert ANN not in str(found)
