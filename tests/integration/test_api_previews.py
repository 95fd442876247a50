"""Previews over HTTP: what they show, for whom, and that they are what the sender sends."""

import json
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.sender.campaigns import Campaigns
from services.sender.db import campaigns
from services.sender.db.worklist import WorklistRow
from services.sender.metrics import SenderMetrics
from shared.settings import SenderSettings, load
from tests.support.api import NDJSON, SECRET_KEY, ApiRig, api_on, ndjson

HTML = (
    "<p>Hello {{ first_name }}, you have {{ points|default('no') }} points.</p>"
    "<p><a href=\"{{ offer|default('https://example.com/all') }}\">Your offer</a>"
    ' <a href="{{ unsubscribe_url }}">Unsubscribe</a></p>'
)
PEOPLE: list[dict[str, Any]] = [
    {"email": "ann@example.test", "first_name": "Ann", "points": 7, "offer": "https://example.com/ann"},
    {"email": "bob@example.test", "first_name": "Bob"},
]


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def a_campaign(api: ApiRig, people: list[dict[str, Any]] | None = None, **fields: Any) -> str:
    given = {"subject": "{{ first_name }}, our news", "html": HTML, "text": None, **fields}
    campaign = await api.create(**given)
    if people:
        await api.load(campaign, ndjson(people), NDJSON)
    return campaign


async def preview(api: ApiRig, campaign: str, body: dict[str, Any] | None = None, expect: int = 200) -> Any:
    return await api.post(f"/v1/campaigns/{campaign}/preview", body, expect)


async def test_the_email_to_a_recipient_is_shown_whole(api: ApiRig) -> None:
    campaign = await a_campaign(api, PEOPLE)
    seen = await preview(api, campaign, {"email": "ANN@example.test"})
    assert (seen["email"], seen["subject"], seen["problem"]) == ("ann@example.test", "Ann, our news", None)
    assert "Hello Ann, you have 7 points." in seen["html"]
    assert "Hello Ann, you have 7 points." in seen["text"]
    assert (seen["links"][0]["url"], seen["links"][0]["text"]) == ("https://example.com/ann", "Your offer")
    headers = {one["name"]: one["value"] for one in seen["headers"]}
    assert (headers["From"], headers["To"]) == ("News <news@example.test>", "ann@example.test")
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert seen["size_bytes"] > seen["html_bytes"] > 100
    assert (seen["missing_fields"], seen["warnings"], seen["is_clipped"]) == ([], [], False)


async def test_a_preview_is_what_the_sender_sends(api: ApiRig) -> None:
    """Byte for byte, except for the unsubscribe link, which would work."""
    campaign = await a_campaign(api, PEOPLE, attachments=[{"filename": "ä.txt", "content": "MTAgRVVS"}])
    [ann, _] = (await api.get(f"/v1/campaigns/{campaign}/recipients"))["data"]
    settings = load(SenderSettings, secret_key=SECRET_KEY, smtp_url="smtp://127.0.0.1:1")
    metrics = SenderMetrics(CollectorRegistry(), settings)
    facts = await Campaigns(api.ledger, settings, {}, metrics, lambda: None).get(UUID(campaign))
    builder = facts.content.make([await campaigns.read_content(api.ledger, facts.id)])
    fields = {"first_name": "Ann", "points": 7}
    row = WorklistRow(ann["id"], ann["email"], json.dumps(fields), "pending", 0, False, False, ann["email"])
    pieces = facts.render(builder, row, formatdate(), facts.tokens(ann["id"]))
    assert isinstance(pieces, tuple)
    sent = b"".join(pieces)
    seen = await preview(api, campaign, {"email": "ann@example.test", "data": fields})
    assert seen["size_bytes"] == len(sent)
    shown = {one["name"]: one["value"] for one in seen["headers"]}
    for line in sent.split(b"\r\n\r\n")[0].decode().replace("\r\n ", " ").split("\r\n"):
        name, _, value = line.partition(": ")
        if name not in ("Date", "Message-ID", "List-Unsubscribe"):
            assert shown[name] == value
    assert [(one["filename"], one["size_bytes"]) for one in seen["attachments"]] == [("ä.txt", 6)]


async def test_without_an_address_the_first_recipient_is_shown_and_without_recipients_stand_ins(api: ApiRig) -> None:
    seen = await preview(api, await a_campaign(api, PEOPLE))
    assert seen["email"] == "ann@example.test"
    seen = await preview(api, await a_campaign(api))
    assert (seen["subject"], seen["missing_fields"]) == ("[first_name], our news", ["first_name"])
    assert "first_name" in seen["problem"]
    assert "Hello [first_name], you have no points." in seen["html"]


async def test_given_fields_take_the_place_of_a_recipients(api: ApiRig) -> None:
    campaign = await a_campaign(api, PEOPLE)
    seen = await preview(api, campaign, {"data": {"first_name": "Zoë <b>"}})
    assert (seen["subject"], seen["email"]) == ("Zoë <b>, our news", "someone@example.com")
    assert "Hello Zoë &lt;b&gt;," in seen["html"]


async def test_an_email_that_cannot_be_made_says_why(api: ApiRig) -> None:
    campaign = await a_campaign(api)
    seen = await preview(api, campaign, {"data": {"first_name": "Ann", "offer": "javascript:alert(1)"}})
    assert "'offer'" in seen["problem"]
    assert (seen["subject"], seen["html"], seen["headers"], seen["size_bytes"]) == (None, None, [], None)


async def test_who_is_not_a_recipient_needs_data(api: ApiRig) -> None:
    campaign = await a_campaign(api, PEOPLE)
    for wrong in ("eve@example.test", "nobody"):
        problem = await preview(api, campaign, {"email": wrong}, 422)
        assert problem["errors"][0]["pointer"] == "#/email"
    assert (await preview(api, campaign, {"email": "eve@example.test", "data": {}}))["email"] == "eve@example.test"
    await preview(api, campaign, {"mail": "eve@example.test"}, 422)
    await preview(api, "0197d3a0-0000-7000-8000-000000000000", {}, 404)


async def test_the_unsubscribe_link_works_for_no_one(api: ApiRig) -> None:
    campaign = await a_campaign(api, PEOPLE)
    seen = await preview(api, campaign)
    [link] = [link["url"] for link in seen["links"] if link["text"] == "Unsubscribe"]
    answer = await api.client.post(link.partition("//")[2].partition("/")[2].join(("/", "")))
    assert answer.status_code == 404
    assert (await api.get("/v1/suppressions"))["data"] == []


async def test_warnings_of_the_template_and_of_the_rules_are_listed(api: ApiRig) -> None:
    campaign = await a_campaign(
        api, subject="BUY IT NOW!!!", html='<p>Hi *|FNAME|*</p><img src="http://x.example/a.png">', text=None
    )
    found = {one["rule"]: one for one in (await preview(api, campaign))["warnings"]}
    assert {"subject-in-capitals", "subject-shouts", "insecure-link", "image-without-alt"} <= set(found)
    assert {"only-images", "no-unsubscribe-link"} <= set(found)
    assert (found["template"]["pointer"], found["template"]["line"]) == ("#/html", 1)
    assert "{{ first_name }}" in found["template"]["detail"]


async def test_clipping_is_told(api: ApiRig) -> None:
    campaign = await a_campaign(api, html=HTML + "<p>" + "word " * 25_000 + "</p>")
    seen = await preview(api, campaign, {"data": {"first_name": "Ann"}})
    assert seen["is_clipped"]
    assert [one["rule"] for one in seen["warnings"]] == ["clipped"]


async def test_addresses_and_words_beyond_ascii_are_read_back(api: ApiRig) -> None:
    campaign = await a_campaign(
        api,
        [{"email": "jürgen@bücher.de", "first_name": "Jürgen"}],
        **{"from": {"email": "нина@example.com", "name": "Новости из Рима и других городов, которые вы любите"}},
    )
    seen = await preview(api, campaign)
    headers = {one["name"]: one["value"] for one in seen["headers"]}
    assert headers["To"] == "jürgen@xn--bcher-kva.de"
    assert headers["From"] == "Новости из Рима и других городов, которые вы любите <нина@example.com>"
    assert seen["subject"] == "Jürgen, our news"


async def test_a_preview_needs_a_key(api: ApiRig) -> None:
    campaign = await a_campaign(api, PEOPLE)
    del api.client.headers["Authorization"]
    await preview(api, campaign, {}, 401)
