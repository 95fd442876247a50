"""Complaints per provider and day: what is judged, and which campaign waits for a person."""

import time
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update
from sqlmodel import col
from uuid6 import uuid7

from services.dispatcher import lifecycle
from shared.ledger import complaints, projects, rows
from shared.ledger.database import clock, db_now
from shared.ledger.models import DEFAULT_PROJECT, Campaign, Recipient
from shared.ledger.report_tables import ComplaintRate, Report
from shared.providers import Providers
from tests.support.api import ApiRig, api_on
from tests.support.ledger import add_campaign

DAY = 86_400.0
NOON = (time.time() // DAY + 0.5) * DAY
"""Today: emails of one test are sent on the same day, also around midnight."""

PROVIDERS = Providers()


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def a_sent_campaign(api: ApiRig, domains: dict[str, int], *, days_ago: int = 0) -> dict[str, list[int]]:
    """A campaign sent to so many recipients of each domain; returns their ids by domain."""
    campaign = await add_campaign(api.ledger, 0, status="finished")
    sent_at = NOON - days_ago * DAY
    people = [f"p{number}@{domain}" for domain, size in domains.items() for number in range(size)]
    async with api.ledger.write() as connection:
        await connection.execute(
            insert(Recipient).values(campaign_id=campaign, status="sent", sent_at=sent_at),
            [{"email": email, "email_key": email} for email in people],
        )
        await connection.execute(
            update(Campaign).where(col(Campaign.id) == campaign).values(started_at=sent_at, finished_at=sent_at)
        )
        found = await connection.execute(
            select(col(Recipient.id), col(Recipient.email_key))
            .where(col(Recipient.campaign_id) == campaign)
            .order_by(col(Recipient.id))
        )
        ids: dict[str, list[int]] = {}
        for number, email in found:
            ids.setdefault(email.partition("@")[2], []).append(number)
    return ids


async def complain(api: ApiRig, people: Sequence[int], *, verified: bool = True) -> None:
    async with api.ledger.write() as connection:
        await connection.execute(
            rows.insert_missing(connection, Report).values(
                at=db_now(), project_id=DEFAULT_PROJECT, kind="complained", verified=verified, via="mail"
            ),
            [{"digest": f"{number:064}", "recipient_id": number if verified else None} for number in people],
        )


async def rates(api: ApiRig) -> dict[str, tuple[int, int]]:
    async with api.ledger.read() as connection:
        found = await connection.execute(
            select(col(ComplaintRate.provider), col(ComplaintRate.complaints), col(ComplaintRate.delivered))
        )
        return {row[0]: (row[1], row[2]) for row in found}


async def judged(api: ApiRig) -> tuple[int, int]:
    """Judges, and returns how many providers alert and hold."""
    await complaints.judge(api.ledger, PROVIDERS)
    async with api.ledger.read() as connection:
        return await complaints.over(connection)


async def test_providers_are_judged_apart_from_each_other(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 1500, "ymail.com": 500, "gmail.com": 1500, "own.example": 1200})
    await complain(api, [*people["yahoo.com"][:4], *people["ymail.com"][:2]])
    await complain(api, people["own.example"][:4])
    assert await judged(api) == (1, 1)
    assert await rates(api) == {"yahoo": (6, 2000)}
    await complain(api, people["gmail.com"][:5])
    await complain(api, people["own.example"][4:5])
    assert await judged(api) == (3, 3)
    assert await rates(api) == {"yahoo": (6, 2000), "gmail": (5, 1500), "own.example": (5, 1200)}


async def test_few_emails_or_few_complaints_say_nothing(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 999, "gmail.com": 1000})
    await complain(api, [*people["yahoo.com"][:50], *people["gmail.com"][:4]])
    await complain(api, people["gmail.com"][4:40], verified=False)
    assert await judged(api) == (0, 0)


async def test_one_in_a_thousand_alerts_and_three_hold(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 5001})
    await complain(api, people["yahoo.com"][:5])
    assert await judged(api) == (0, 0)
    await complain(api, people["yahoo.com"][:6])
    assert await judged(api) == (1, 0)
    await complain(api, people["yahoo.com"][:16])
    assert await judged(api) == (1, 1)


async def test_an_email_counts_on_the_day_it_was_sent(api: ApiRig) -> None:
    earlier = await a_sent_campaign(api, {"yahoo.com": 1100}, days_ago=3)
    today = await a_sent_campaign(api, {"yahoo.com": 1100})
    async with api.ledger.write() as connection:  # the last 100 of the earlier campaign were sent today
        late = col(Recipient.id).in_(earlier["yahoo.com"][1000:])
        await connection.execute(update(Recipient).where(late).values(sent_at=NOON))
        await connection.execute(update(Campaign).where(col(Campaign.started_at) < NOON - DAY).values(finished_at=NOON))
    await complain(api, [*earlier["yahoo.com"][:4], *today["yahoo.com"][:4]])
    assert await judged(api) == (0, 0)
    await complain(api, earlier["yahoo.com"][:5])
    assert await judged(api) == (0, 0)  # the alert is about the last two days
    assert await rates(api) == {"yahoo": (5, 1000)}
    assert list(await held(api, await queued(api))) == ["yahoo"]


async def queued(api: ApiRig, project_id: UUID = DEFAULT_PROJECT) -> UUID:
    campaign = await add_campaign(api.ledger, 1)
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == campaign).values(project_id=project_id))
    return campaign


async def held(api: ApiRig, *campaigns: UUID) -> list[str]:
    """The providers because of which campaigns are held."""
    async with api.ledger.read() as connection:
        found = await complaints.held(connection, campaigns)
    return [next(name for name in ("yahoo", "gmail") if name in reason) for reason in found.values()]


async def test_the_next_campaign_waits_for_a_person_who_lifts_what_held_it(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 2000})
    begun, test = await queued(api), await queued(api)
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == begun).values(started_at=db_now()))
        await connection.execute(update(Campaign).where(col(Campaign.id) == test).values(test_of=uuid7()))
        others = (await projects.create(connection, "others")).id
    foreign, following = await queued(api, others), await queued(api)
    await complain(api, people["yahoo.com"][:8])
    assert await judged(api) == (1, 1)
    assert await lifecycle.start(api.ledger, [begun, test, foreign, following]) == {begun, test, foreign}
    async with api.ledger.read() as connection:
        found = await connection.execute(
            select(col(Campaign.status), col(Campaign.reason)).where(col(Campaign.id) == following)
        )
        status, reason = found.one()
        today = int(await clock(connection) // DAY)
        sent_on = await connection.scalar(select(col(ComplaintRate.day)))
    assert status == "paused"
    assert sent_on in (today - 1, today)
    assert reason is not None
    assert reason.startswith("8 of 2000 emails that yahoo took on 20")
    assert "(0.40 %)" in reason
    [entry] = (await api.get(f"/v1/campaigns/{following}/timeline"))["data"]
    assert (entry["kind"], entry["text"]) == ("paused", reason)
    await api.request("POST", f"/v1/campaigns/{following}/resume", 202, json={})
    another = await queued(api)
    assert await lifecycle.start(api.ledger, [following, another]) == {following, another}
    await complain(api, people["yahoo.com"][:9])
    assert await judged(api) == (1, 1)
    assert await held(api, await queued(api)) == []  # the same day, about which a person has decided


async def test_resume_lifts_only_what_a_person_was_told(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 2000, "gmail.com": 5000})
    paused, waiting = await queued(api), await queued(api)
    await api.request("POST", f"/v1/campaigns/{paused}/pause", 202, json={})
    await complain(api, [*people["yahoo.com"][:8], *people["gmail.com"][:5]])
    assert await judged(api) == (2, 1)
    await api.request("POST", f"/v1/campaigns/{paused}/resume", 202, json={})
    assert await held(api, paused, waiting) == ["yahoo", "yahoo"]
    assert await lifecycle.start(api.ledger, [paused]) == set()
    await api.request("POST", f"/v1/campaigns/{paused}/resume", 202, json={})
    assert await held(api, paused, waiting) == []
    await complain(api, people["gmail.com"][:15])  # too few before to hold anything
    assert await judged(api) == (2, 2)
    assert await held(api, paused, waiting) == ["gmail", "gmail"]


async def test_old_days_are_forgotten(api: ApiRig) -> None:
    async with api.ledger.write() as connection:
        long_ago = int(await clock(connection) // DAY) - complaints.KEPT_DAYS
        for day in (long_ago - 1, long_ago + 1):
            await connection.execute(
                insert(ComplaintRate).values(
                    project_id=DEFAULT_PROJECT,
                    provider=f"day {day}",
                    day=day,
                    complaints=5,
                    delivered=1000,
                    judged_at=0.0,
                )
            )
    people = await a_sent_campaign(api, {"yahoo.com": 1000})
    await complain(api, people["yahoo.com"][:5])
    assert await judged(api) == (1, 1)
    assert (await rates(api)).keys() == {"yahoo", f"day {long_ago + 1}"}


async def test_a_day_is_counted_again_while_emails_leave(api: ApiRig) -> None:
    people = await a_sent_campaign(api, {"yahoo.com": 1000})
    await complain(api, people["yahoo.com"][:5])
    assert await judged(api) == (1, 1)
    await a_sent_campaign(api, {"yahoo.com": 1000})
    assert await judged(api) == (1, 1)
    async with api.ledger.write() as connection:
        await connection.execute(
            # On that day, and long enough ago, at any time of the day and also if it is over by now.
            update(ComplaintRate).values(judged_at=col(ComplaintRate.day) * DAY - complaints.AGAIN_SECONDS)
        )
    assert await judged(api) == (1, 0)
    assert await rates(api) == {"yahoo": (5, 2000)}
