"""`/v1/limits`: set, shown, removed; and what campaigns show of them."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update
from sqlmodel import col

from shared.ledger import instances
from shared.ledger.models import DEFAULT_PROJECT, Campaign, RateLimit
from tests.support.api import ApiRig, api_on, campaign_body


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def test_limits_are_set_shown_and_removed(api: ApiRig) -> None:
    warmup = {"start": 500, "growth_per_day": 1.5, "until": 100_000}
    body = {"emails_per_second": 20, "emails_per_day": 50_000, "warmup": warmup}
    shown = await api.request("PUT", "/v1/limits/relay:mx.example", json=body)
    assert (shown["scope"], shown["emails_per_second"], shown["warmup"]) == ("relay:mx.example", 20, warmup)
    assert (shown["cap_today"], shown["emails_today"], shown["waiting_for"]) == (500, 0, None)
    await api.request("PUT", "/v1/limits/project", json={"emails_per_hour": 10})
    listed = (await api.get("/v1/limits"))["data"]
    assert [(one["scope"], one["emails_per_second"], one["emails_per_hour"]) for one in listed] == [
        ("project", None, 10),
        ("relay:mx.example", 20, None),
    ]
    await api.request("DELETE", "/v1/limits/project", 204)
    await api.request("DELETE", "/v1/limits/project", 404)
    await api.request("PUT", "/v1/limits/campaign:1", 404, json={"emails_per_hour": 10})
    await api.request("PUT", "/v1/limits/project", 422, json={"emails_per_hour": 0})
    assert [one["scope"] for one in (await api.get("/v1/limits"))["data"]] == ["relay:mx.example"]


async def test_the_same_warm_up_set_again_does_not_restart_it(api: ApiRig) -> None:
    body = {"warmup": {"start": 100, "growth_per_day": 2, "until": 1000}}
    await api.request("PUT", "/v1/limits/relay:mx", json=body)
    async with api.ledger.write() as connection:
        await connection.execute(update(RateLimit).values(warmup_day=col(RateLimit.warmup_day) - 2, day_count=7))
    shown = await api.request("PUT", "/v1/limits/relay:mx", json={**body, "emails_per_second": 5})
    assert shown["cap_today"] == 400


async def test_a_campaign_shows_that_its_project_has_used_up_a_cap(api: ApiRig) -> None:
    campaign = await api.create(3)
    await api.request("PUT", "/v1/limits/project", json={"emails_per_day": 100})
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).values(status="sending"))
        await connection.execute(
            update(RateLimit)
            .where(col(RateLimit.scope) == f"project:{DEFAULT_PROJECT}")
            .values(day=10**6, day_count=100)
        )
    shown = await api.show(campaign)
    assert shown["blocked_by"].startswith("the project's limits: the limit of 100 emails a day is used up")
    await api.request("PUT", "/v1/limits/project", json={"emails_per_day": 101})
    assert (await api.show(campaign))["blocked_by"] is None


async def test_send_warns_of_limits_that_outlast_deliver_by(api: ApiRig) -> None:
    await api.request("PUT", "/v1/limits/relay:mx", json={"warmup": {"start": 1, "growth_per_day": 2, "until": 1000}})
    await api.request("PUT", "/v1/limits/project", json={"emails_per_hour": 1000})
    campaign = await api.create(40, emails_per_second=5)
    sent = await api.request("POST", f"/v1/campaigns/{campaign}/send", 202)
    [warning] = sent["warnings"]
    assert warning["pointer"] == "#/deliver_by"
    assert "of 40 emails can begin before deliver_by, because of the limits of the relays" in warning["detail"]
    timeline = (await api.get(f"/v1/campaigns/{campaign}/timeline"))["data"]
    assert warning["detail"] in [entry["text"] for entry in timeline]
    await api.request("DELETE", "/v1/limits/relay:mx", 204)
    campaign = await api.create(40)
    assert (await api.request("POST", f"/v1/campaigns/{campaign}/send", 202))["warnings"] == []


async def test_send_warns_of_the_relays_of_its_group_only(database_url: str) -> None:
    async with api_on(database_url, relay_groups="bulk=example.test vip") as api:
        slow = {"warmup": {"start": 1, "growth_per_day": 2, "until": 1000}}
        await api.request("PUT", "/v1/limits/relay:mx-bulk", json=slow)
        await api.request("PUT", "/v1/limits/relay:mx-both", json=slow)
        said = [("mx-bulk", "bulk"), ("mx-vip", "vip"), ("mx-free", ""), ("mx-both", "")]
        async with api.ledger.write() as connection:
            await instances.seen(
                connection,
                instance="sender-1",
                service="sender",
                detail={"relays": [{"name": name, "group": group} for name, group in said]},
            )
        bulk, vip = await api.create(40), await api.create(40, relay_group="vip")
        free = await api.create(40, **{"from": {"email": "news@other.test"}})
        sent = [
            (await api.request("POST", f"/v1/campaigns/{campaign}/send", 202))["warnings"]
            for campaign in (bulk, vip, free)
        ]
        assert "because of the limits of the relays of group bulk" in sent[0][0]["detail"]
        assert sent[1:] == [[], []], "their groups have a relay without a limit"


async def test_an_unknown_relay_group_is_refused_in_words(api: ApiRig) -> None:
    problem = await api.request("POST", "/v1/campaigns", 422, json=campaign_body(relay_group="bulk"))
    assert problem["errors"] == [
        {"pointer": "#/relay_group", "detail": "'bulk' is not in VASHSENDER_RELAY_GROUPS; it names none"}
    ]
