"""Actions in every status: allowed ones happen, others are a 409 that says what is possible."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update
from sqlmodel import col

from services.api.prewarm import NO_TENANT
from services.api.shapes.campaigns import SendIn
from services.api.usecases import actions
from services.api.usecases.campaign_row import CampaignRef
from services.api.web.context import Project
from shared.events import CampaignRequested, Event
from shared.ledger.database import db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient
from shared.ledger.states import CampaignStatus
from tests.support.api import NDJSON, SEND_SETTINGS, ApiRig, api_on, ndjson
from tests.support.ledger import FakeSender, assert_sound
from tests.support.services import DispatcherRig, register_sender


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


BODIES = {"resolve-unknown": {"as": "sent"}}
OUTCOMES = {
    "send": {"draft": "queued", "scheduled": "queued"},
    "pause": {"queued": "paused", "sending": "paused"},
    "resume": {"paused": "queued"},
    "cancel": dict.fromkeys(("scheduled", "queued", "sending", "paused"), "stopping"),
    "retry-failed": {
        "queued": "queued",
        "sending": "sending",
        "paused": "paused",
        "finished": "queued",
        "failed": "queued",
    },
}
OUTCOMES["resolve-unknown"] = OUTCOMES["retry-failed"]


async def put(api: ApiRig, campaign: str, **values: Any) -> None:
    """Puts a campaign into the status that a test needs."""
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).where(col(Campaign.id) == UUID(campaign)).values(**values))


async def with_batch(api: ApiRig, campaign: str, status: str) -> None:
    """All recipients in one batch that is done, every one of them in this status."""
    own = col(Recipient.campaign_id) == UUID(campaign)
    async with api.ledger.write() as connection:
        rows = (
            await connection.execute(
                update(Recipient).where(own).values(status=status, attempts=4).returning(col(Recipient.id))
            )
        ).scalars()
        ids = sorted(rows)
        await connection.execute(
            insert(Batch).values(
                campaign_id=UUID(campaign),
                first_id=ids[0],
                last_id=ids[-1],
                size=len(ids),
                state="done",
                due_at=0.0,
                **{status: len(ids)},
            )
        )
    await put(api, campaign, cursor=ids[-1])


@pytest.mark.parametrize("status", list(CampaignStatus))
async def test_every_action_in_every_state(api: ApiRig, status: CampaignStatus) -> None:
    for action, allowed in OUTCOMES.items():
        campaign = await api.create(1)
        await with_batch(api, campaign, "unknown" if action == "resolve-unknown" else "failed")
        await put(api, campaign, status=status.value, deliver_by=db_now() + 60)
        told, api.bus.events = api.bus.events, []
        path = f"/v1/campaigns/{campaign}/{action}"
        if status.value in allowed:
            answer = await api.post(path, BODIES.get(action))
            assert answer["status"] == allowed[status.value], action
            assert api.bus.of(CampaignRequested) == [CampaignRequested(campaign_id=UUID(campaign))]
            assert len(await api.kinds(campaign)) == 2
        else:
            problem = await api.post(path, BODIES.get(action), 409)
            assert problem["campaign_status"] == status.value, action
            assert problem["possible"]
            assert (await api.show(campaign))["status"] == status.value
            assert api.bus.events == []
            assert await api.kinds(campaign) == ["created"]
        api.bus.events = told


async def test_a_campaign_runs_from_the_request_to_the_last_recipient(api: ApiRig) -> None:
    """Through the ledger, with the real dispatcher and a sender that always delivers."""
    campaign = await api.create(7)
    sent = await api.post(f"/v1/campaigns/{campaign}/send")
    assert (sent["status"], sent["counts"]["pending"]) == ("queued", 7)
    dispatcher = DispatcherRig.on(api.ledger, batch_size=2)
    sender = FakeSender(api.ledger)
    await register_sender(api.ledger, 2)
    await dispatcher.settle()
    while await sender.send_all_released():
        await dispatcher.settle()
    shown = await api.show(campaign)
    assert (shown["status"], shown["counts"]["sent"]) == ("finished", 7)
    assert shown["rates"]["average_per_second"] > 0
    assert len(await api.emails(campaign, status="sent", limit=3)) == 7
    assert (await api.kinds(campaign))[:2] == ["created", "requested"]
    await assert_sound(api.ledger)


async def test_send_is_accepted_while_the_broker_is_away(api: ApiRig) -> None:
    api.bus.away = True
    campaign = await api.create(1)
    await api.post(f"/v1/campaigns/{campaign}/send")
    await register_sender(api.ledger, 1)
    await DispatcherRig.on(api.ledger).settle()
    assert (await api.show(campaign))["status"] == "sending"


async def test_an_answer_waits_only_a_moment_for_a_broker_that_does_not_confirm(api: ApiRig) -> None:
    campaign = UUID(await api.create(1))
    published, confirmed = list[Event](), asyncio.Event()

    async def publish(event: Event) -> bool:
        published.append(event)
        return await confirmed.wait()

    tenant = replace(NO_TENANT, key=replace(NO_TENANT.key, project_id=DEFAULT_PROJECT))
    accepted = await actions.send(api.ledger, CampaignRef(tenant, campaign), SendIn(), SEND_SETTINGS)
    project = Project(replace(api.api, publish=publish), tenant.key)
    rest = asyncio.create_task((await project.announce(accepted))())
    assert published == [CampaignRequested(campaign_id=campaign)]
    await asyncio.sleep(0)
    assert not rest.done()
    confirmed.set()
    await rest


async def test_send_refuses_impossible_times_and_empty_campaigns(api: ApiRig) -> None:
    empty = await api.create()
    assert "no recipients" in (await api.post(f"/v1/campaigns/{empty}/send", expect=409))["title"]
    campaign = await api.create(1)
    path = f"/v1/campaigns/{campaign}/send"
    for body, pointer in (
        ({"scheduled_at": "2001-01-01T00:00:00Z"}, "#/scheduled_at"),
        ({"deliver_by": "2001-01-01T00:00:00Z"}, "#/deliver_by"),
        ({"scheduled_at": "2999-01-02T00:00:00Z", "deliver_by": "2999-01-01T00:00:00Z"}, "#/deliver_by"),
        ({"scheduled_at": "2999-01-02T00:00:00"}, "#/scheduled_at"),
        ({"when": "now"}, "#/when"),
    ):
        assert (await api.post(path, body, 422))["errors"][0]["pointer"] == pointer
    assert (await api.show(campaign))["status"] == "draft"


async def test_send_without_a_body_sends_now_within_72_hours(api: ApiRig) -> None:
    campaign = await api.create(1)
    sent = await api.request("POST", f"/v1/campaigns/{campaign}/send", 202)
    assert sent["scheduled_at"] is None
    within = datetime.fromisoformat(sent["deliver_by"]).timestamp() - await api.ledger.now()
    assert within == pytest.approx(72 * 3600, abs=30)


async def test_failed_recipients_open_again_with_a_new_deadline(api: ApiRig) -> None:
    campaign = await api.create(3)
    await with_batch(api, campaign, "failed")
    await put(api, campaign, status="finished", deliver_by=db_now() - 60, finished_at=db_now())
    before = await api.show(campaign)
    answer = await api.post(f"/v1/campaigns/{campaign}/retry-failed")
    assert answer["deliver_by"] > before["deliver_by"]
    assert answer["finished_at"] is None
    assert (await api.show(campaign))["reopening"] == "failed"
    problem = await api.post(f"/v1/campaigns/{campaign}/resolve-unknown", {"as": "sent"}, 409)
    assert problem["type"].endswith("reopening")
    dispatcher, sender = DispatcherRig.on(api.ledger), FakeSender(api.ledger)
    await register_sender(api.ledger, 1)
    await dispatcher.settle()
    assert await sender.send_all_released() == 3
    await dispatcher.settle()
    assert (await api.show(campaign))["counts"]["sent"] == 3
    await assert_sound(api.ledger)


@pytest.mark.parametrize(("settle", "emails"), [("sent", 0), ("resend", 2)])
async def test_unknown_recipients_are_settled_as_requested(api: ApiRig, settle: str, emails: int) -> None:
    campaign = await api.create(2)
    await with_batch(api, campaign, "unknown")
    await put(api, campaign, status="finished", deliver_by=db_now() + 60)
    await api.post(f"/v1/campaigns/{campaign}/resolve-unknown", {"as": settle})
    dispatcher, sender = DispatcherRig.on(api.ledger), FakeSender(api.ledger)
    await register_sender(api.ledger, 1)
    await dispatcher.settle()
    assert await sender.send_all_released() == emails
    await dispatcher.settle()
    shown = await api.show(campaign)
    assert (shown["status"], shown["counts"]["sent"], shown["counts"]["unknown"]) == ("finished", 2, 0)
    await assert_sound(api.ledger)


async def test_retry_without_failed_recipients_is_refused(api: ApiRig) -> None:
    campaign = await api.create(1)
    await put(api, campaign, status="finished")
    assert (await api.post(f"/v1/campaigns/{campaign}/retry-failed", expect=409))["type"].endswith("nothing-to-do")
    await api.post(f"/v1/campaigns/{campaign}/resolve-unknown", {"as": "lost"}, 422)


NAMED = {"email": "answers@example.test", "name": "Support"}


async def test_a_test_is_a_separate_small_campaign(api: ApiRig) -> None:
    campaign = await api.create(1, subject="Hello {{ name|default('you') }}", reply_to=NAMED, emails_per_second=1)
    path = f"/v1/campaigns/{campaign}/test"
    answer = await api.client.post(path, json={"recipients": [{"email": "me@example.test", "data": {"name": "Me"}}]})
    assert answer.status_code == 202
    test = answer.json()
    assert answer.headers["location"] == f"/v1/campaigns/{test['id']}"
    assert (test["test_of"], test["status"], test["counts"]["total"]) == (campaign, "queued", 1)
    assert (await api.show(test["id"]))["reply_to"] == NAMED
    assert api.bus.of(CampaignRequested)[-1].campaign_id == UUID(test["id"])
    assert (await api.show(campaign))["status"] == "draft"
    assert [one["id"] for one in (await api.get("/v1/campaigns"))["data"]] == [campaign]
    assert len((await api.get("/v1/campaigns", include_tests=True))["data"]) == 2
    previews = [await api.post(f"/v1/campaigns/{one}/preview", expect=200) for one in (campaign, test["id"])]
    assert previews[0]["text"] == previews[1]["text"] != ""
    await api.post(path, {"recipients": [{"email": f"r{n}@example.test"} for n in range(11)]}, 422)
    await api.post(path, {"recipients": []}, 422)
    needy = await api.create(subject="Hello {{ name }}")
    problem = await api.post(f"/v1/campaigns/{needy}/test", {"recipients": [{"email": "me@example.test"}]}, 422)
    assert problem["errors"][0]["pointer"] == "#/recipients/0/data/name"


async def test_recipients_can_be_added_only_before_sending(api: ApiRig) -> None:
    campaign = await api.create(1)
    await api.post(f"/v1/campaigns/{campaign}/send")
    problem = await api.load(campaign, ndjson([{"email": "late@example.test"}]), NDJSON, 409)
    assert problem["campaign_status"] == "queued"
    assert (await api.show(campaign))["counts"]["total"] == 1
