"""Campaigns over HTTP: create, list, show, change, delete; wrong requests, and other projects."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, update
from sqlmodel import col

from shared.ledger.database import db_now
from shared.ledger.models import Campaign, Import, Project, RateLimit, Recipient
from tests.support.api import NDJSON, ApiRig, api_on, campaign_body, ndjson
from tests.support.ledger import statements_of


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def rows_in(api: ApiRig, *models: Any) -> list[int]:
    async with api.ledger.read() as connection:
        return [(await connection.execute(select(func.count()).select_from(model))).scalar_one() for model in models]


async def test_a_draft_shows_what_was_given_and_what_was_filled_in(api: ApiRig) -> None:
    body = campaign_body(
        reply_to="Answers@EXAMPLE.test",
        html="<p>Hello {{ name|default('there') }}</p>",
        emails_per_second=100,
        attachments=[{"filename": "prices.txt", "content_type": "text/plain", "content": "MTAgRVVS"}],
        recipients=[{"email": "ann@example.test", "data": {"name": "Ann"}}, {"email": "ANN@example.test"}],
    )
    answer = await api.client.post("/v1/campaigns", json=body)
    assert answer.status_code == 201
    campaign = answer.json()
    assert answer.headers["location"] == f"/v1/campaigns/{campaign['id']}"
    assert campaign["status"] == "draft"
    assert campaign["reply_to"] == "Answers@example.test"
    assert campaign["envelope_from"] == "news@example.test"
    assert campaign["attachments"] == ["prices.txt"]
    assert campaign["counts"] | {"total": 1, "pending": 1} == campaign["counts"]
    assert campaign["rates"] == {"limit_per_second": 100.0, "average_per_second": None}
    assert campaign["created_at"].endswith("Z")
    assert campaign == await api.show(campaign["id"])
    imports = (await api.get(f"/v1/campaigns/{campaign['id']}/imports"))["data"]
    assert [(one["format"], one["lines"], one["duplicates"]) for one in imports] == [("inline", 2, 1)]


async def test_a_long_content_is_shown_whole_with_the_names_of_its_files(api: ApiRig) -> None:
    content = {"subject": "Prices", "html": f"<p>{'word ' * 20_000}</p>", "text": "Prices: ü"}
    files = [{"filename": name, "content": "MTAgRVVS"} for name in ("a.txt", "b.txt")]
    shown = await api.show(await api.create(attachments=files, **content))
    assert {name: shown[name] for name in content} == content
    assert shown["attachments"] == ["a.txt", "b.txt"]


async def test_a_campaign_is_shown_with_one_statement_for_the_key_one_for_all_else_and_one_for_limits(
    api: ApiRig,
) -> None:
    path = f"/v1/campaigns/{await api.create(2)}"
    await api.get(path)  # notes that the key is used
    for tables in (("api_key", "campaign"), ("api_key", "campaign", "rate_limit")):
        with statements_of(api.ledger) as seen:
            await api.get(path)
        statements = [statement for statement, _ in seen if not statement.startswith("BEGIN")]
        assert len(statements) == len(tables)
        assert all(f"FROM {table}" in statement for statement, table in zip(statements, tables, strict=True))
        await api.request("PUT", "/v1/limits/project", json={"emails_per_day": 1000})


async def test_answers_go_to_a_mailbox_with_a_name(api: ApiRig) -> None:
    named = {"email": "answers@example.test", "name": "Support, Ltd"}
    campaign = await api.create(reply_to={**named, "email": "answers@EXAMPLE.test"})
    assert (await api.show(campaign))["reply_to"] == named
    seen = await api.post(f"/v1/campaigns/{campaign}/preview", expect=200)
    headers = {one["name"]: one["value"] for one in seen["headers"]}
    assert headers["Reply-To"] == '"Support, Ltd" <answers@example.test>'
    path = f"/v1/campaigns/{campaign}"
    for given, shown in (
        ("plain@example.test", "plain@example.test"),
        (named, named),
        ({"email": "plain@example.test"}, "plain@example.test"),
        (None, None),
    ):
        assert (await api.request("PATCH", path, json={"reply_to": given}))["reply_to"] == shown
        assert (await api.request("PATCH", path, json={"name": "Other"}))["reply_to"] == shown
    async with api.ledger.read() as connection:
        row = (await connection.execute(select(col(Campaign.reply_to), col(Campaign.reply_to_name)))).one()
    assert tuple(row) == (None, None)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "#/name"),
        ({"name": "two\nlines"}, "#/name"),
        ({"from": {"email": "nobody"}}, "#/from/email"),
        ({"from": {"email": "a@example.test", "name": "a\u0000b"}}, "#/from/name"),
        ({"from": None}, "#/from"),
        ({"reply_to": "nobody"}, "#/reply_to"),
        ({"reply_to": {"email": "a@example.test", "name": "a\nb"}}, "#/reply_to/name"),
        ({"reply_to": {"name": "Ann"}}, "#/reply_to/email"),
        ({"subject": "{{ name }"}, "#/subject"),
        ({"html": "<p>{% for x in y %}</p>"}, "#/html"),
        ({"text": None}, "#/text"),
        ({"emails_per_second": 0}, "#/emails_per_second"),
        ({"delivery": "twice"}, "#/delivery"),
        ({"colour": "red"}, "#/colour"),
        ({"recipients": [{"email": "a@example.test"}, {"email": "nobody"}]}, "#/recipients/1/email"),
        (
            {"subject": "{{ name }}", "recipients": [{"email": "a@example.test", "data": {"nmae": "Ann"}}]},
            "#/recipients/0/data/name",
        ),
        ({"attachments": [{"filename": "x", "content": "not base64!"}]}, "#/attachments/0/content"),
    ],
)
async def test_an_error_points_to_what_is_wrong_and_nothing_is_stored(
    api: ApiRig, change: dict[str, Any], pointer: str
) -> None:
    problem = await api.post("/v1/campaigns", {**campaign_body(), **change}, 422)
    assert problem["errors"][0]["pointer"] == pointer
    assert pointer in problem["detail"]
    assert await rows_in(api, Campaign, Recipient, Import, RateLimit) == [0, 0, 0, 0]


async def test_a_wrong_template_is_an_error_with_line_and_column(api: ApiRig) -> None:
    problem = await api.post("/v1/campaigns", campaign_body(text="Hello\n {{ name() }}"), 422)
    error = problem["errors"][0]
    assert (error["pointer"], error["line"]) == ("#/text", 2)
    assert error["column"] > 1


async def test_new_content_is_answered_with_warnings(api: ApiRig) -> None:
    body = campaign_body(subject="Hi *|FNAME|*", html="<p>Hello</p>\n[[name]]")
    campaign = (await api.client.post("/v1/campaigns", json=body)).json()
    warnings = [(one["pointer"], one["line"], one["column"]) for one in campaign["warnings"]]
    assert warnings == [("#/subject", 1, 4), ("#/html", 2, 1)]
    assert campaign["warnings"][0]["detail"].endswith("write {{ first_name }}")
    path = f"/v1/campaigns/{campaign['id']}"
    changed = (await api.client.patch(path, json={"subject": "Hi {{ name|default('you') }}"})).json()
    assert [one["pointer"] for one in changed["warnings"]] == ["#/html"]
    assert (await api.client.patch(path, json={"name": "Other"})).json()["warnings"] == []


async def test_recipients_that_could_not_be_sent_are_refused(api: ApiRig) -> None:
    html = "<a href='{{ link }}'>{{ name }}</a>{% if orders and orders > 5 %}!{% endif %}"
    wrong = [
        {"name": "", "link": "https://x.example"},
        {"name": "Ann", "link": "x.example"},
        {"name": "Ann", "link": "https://x.example", "orders": "many"},
    ]
    recipients = [{"email": f"r{number}@example.test", "data": data} for number, data in enumerate(wrong)]
    answer = await api.client.post("/v1/campaigns", json=campaign_body(html=html, recipients=recipients))
    assert answer.status_code == 422
    assert [one["pointer"] for one in answer.json()["errors"]] == [
        "#/recipients/0/data/name",
        "#/recipients/1/data/link",
        "#/recipients/2/data/orders",
    ]


async def test_lists_are_cut_into_pages_newest_first(api: ApiRig) -> None:
    ids = [await api.create(name=f"Number {number}") for number in range(5)]
    pages: list[list[str]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await api.get("/v1/campaigns", limit=2, **cursor)
        pages.append([one["id"] for one in page["data"]])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    assert (await api.get("/v1/campaigns", status="sending"))["data"] == []
    assert len((await api.get("/v1/campaigns", status=["sending", "draft"]))["data"]) == 5


async def test_a_draft_changes_until_it_is_sent_then_only_its_rate_and_priority(api: ApiRig) -> None:
    campaign = await api.create(2, emails_per_second=5)
    path = f"/v1/campaigns/{campaign}"
    changed = await api.request(
        "PATCH", path, json={"subject": "Other", "from": {"email": "b@example.test"}, "envelope_from": None}
    )
    assert (changed["subject"], changed["from"]["email"], changed["envelope_from"]) == (
        "Other",
        "b@example.test",
        "b@example.test",
    )
    assert changed["text"] == "Hello."
    await api.request("PATCH", path, 422, json={"name": None})
    await api.request("PATCH", path, 422, json={"text": "{{ name() }}"})
    await api.post(f"{path}/send")
    problem = await api.request("PATCH", path, 409, json={"subject": "Too late"})
    assert problem["campaign_status"] == "queued"
    changed = await api.request("PATCH", path, json={"emails_per_second": 50, "priority": 7})
    assert (changed["rates"]["limit_per_second"], changed["priority"]) == (50.0, 7)
    async with api.ledger.read() as connection:
        rows = (await connection.execute(select(col(RateLimit.scope), col(RateLimit.emails_per_second)))).all()
    assert [tuple(row) for row in rows] == [(f"campaign:{campaign}", 50.0)]
    await api.request("PATCH", path, json={"emails_per_second": None})
    assert await rows_in(api, RateLimit) == [0]


async def test_content_may_not_change_to_need_a_field_that_a_recipient_lacks(api: ApiRig) -> None:
    campaign = await api.create()
    rows = [
        {"email": "a@example.test", "name": "Ann", "city": "Rome", "street": "High St"},
        {"email": "b@example.test", "name": "Bob", "street": " "},
    ]
    await api.load(campaign, ndjson(rows), NDJSON)
    path = f"/v1/campaigns/{campaign}"
    assert (await api.request("PATCH", path, 422, json={"subject": "To {{ city }}"}))["field"] == "city"
    assert (await api.request("PATCH", path, 422, json={"subject": "To {{ street }}"}))["field"] == "street"
    await api.request("PATCH", path, json={"subject": "To {{ name }}, {{ city|default('you') }}"})


async def test_a_schedule_can_be_moved_and_removed(api: ApiRig) -> None:
    campaign = await api.create(1)
    path = f"/v1/campaigns/{campaign}"
    await api.request("PATCH", path, 409, json={"scheduled_at": "2999-01-01T00:00:00Z"})
    sent = await api.post(f"{path}/send", {"scheduled_at": "2999-01-01T00:00:00+01:00"})
    assert (sent["status"], sent["scheduled_at"]) == ("scheduled", "2998-12-31T23:00:00Z")
    assert sent["deliver_by"] > sent["scheduled_at"]
    await api.request("PATCH", path, 422, json={"scheduled_at": "2001-01-01T00:00:00Z"})
    moved = await api.request("PATCH", path, json={"scheduled_at": "2998-01-01T00:00:00Z"})
    assert moved["scheduled_at"] == "2998-01-01T00:00:00Z"
    assert (await api.request("PATCH", path, json={"scheduled_at": None}))["status"] == "draft"


async def test_a_default_deadline_moves_with_the_schedule_and_a_given_one_stays(api: ApiRig) -> None:
    default, given = f"/v1/campaigns/{await api.create(1)}", f"/v1/campaigns/{await api.create(1)}"
    await api.post(f"{default}/send", {"scheduled_at": "2998-01-01T00:00:00Z"})
    moved = await api.request("PATCH", default, json={"scheduled_at": "2998-01-03T23:00:00Z"})
    assert moved["deliver_by"] == "2998-01-06T23:00:00Z"
    times = {"scheduled_at": "2998-01-01T00:00:00Z", "deliver_by": "2998-01-02T00:00:00Z"}
    await api.post(f"{given}/send", times)
    moved = await api.request("PATCH", given, json={"scheduled_at": "2998-01-01T20:00:00Z"})
    assert moved["deliver_by"] == "2998-01-02T00:00:00Z"
    refused = await api.request("PATCH", given, 422, json={"scheduled_at": "2998-01-02T00:00:00Z"})
    assert "deliver_by" in refused["detail"]
    both = {"scheduled_at": "2998-01-02T00:00:00Z", "deliver_by": "2998-01-02T00:00:01Z"}
    moved = await api.request("PATCH", given, json=both)
    assert {name: moved[name] for name in both} == both


async def put(api: ApiRig, **columns: str) -> None:
    """Moves the only campaign as other services do."""
    async with api.ledger.write() as connection:
        await connection.execute(update(Campaign).values(**columns))


@pytest.mark.parametrize("state", ["scheduled", "queued", "sending", "paused"])
async def test_a_deadline_can_be_changed_after_send(api: ApiRig, state: str) -> None:
    campaign = await api.create(1)
    path = f"/v1/campaigns/{campaign}"
    refused = await api.request("PATCH", path, 422, json={"deliver_by": "2999-01-01T00:00:00Z"})
    assert "draft" in refused["detail"]
    await api.post(f"{path}/send", {"scheduled_at": "2998-01-01T00:00:00Z"})
    await put(api, status=state)
    await api.request("PATCH", path, 422, json={"deliver_by": "2001-01-01T00:00:00Z"})
    await api.request("PATCH", path, 422, json={"deliver_by": None})
    changed = await api.request("PATCH", path, json={"deliver_by": "2999-01-01T00:00:00Z"})
    assert (changed["status"], changed["deliver_by"]) == (state, "2999-01-01T00:00:00Z")
    texts = [entry["text"] for entry in (await api.get(f"{path}/timeline"))["data"]]
    assert "To be delivered by 2999-01-01 00:00:00 UTC." in texts
    await put(api, status="stopping", stop_as="expired")
    await api.request("PATCH", path, 409, json={"deliver_by": "2999-01-02T00:00:00Z"})


async def test_only_an_unsent_campaign_is_deleted_and_nothing_is_left(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.usecases.campaigns.DELETE_CHUNK_ROWS", 3)
    kept, gone = await api.create(2), await api.create(8, emails_per_second=1)
    await api.post(f"/v1/campaigns/{gone}/send", {"scheduled_at": "2999-01-01T00:00:00Z"})
    await api.request("DELETE", f"/v1/campaigns/{gone}", 204)
    await api.get(f"/v1/campaigns/{gone}", 404)
    assert await rows_in(api, Campaign, Recipient, Import, RateLimit) == [1, 2, 1, 0]
    await api.post(f"/v1/campaigns/{kept}/send")
    await api.request("DELETE", f"/v1/campaigns/{kept}", 409)


async def test_a_key_sees_its_own_project_only(api: ApiRig) -> None:
    campaign = await api.create(1)
    other = uuid4()
    async with api.ledger.write() as connection:
        await connection.execute(insert(Project).values(id=other, name="other", created_at=db_now()))
    await api.post("/v1/suppressions", {"email": "x@example.test"}, 200)
    api.client.headers["Authorization"] = f"Bearer {await api.key(other)}"
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/recipients"),
        ("GET", "/imports"),
        ("GET", "/events"),
        ("GET", "/timeline"),
        ("POST", "/send"),
        ("POST", "/cancel"),
    ):
        body = {"name": "mine"} if method == "PATCH" else None
        problem = await api.request(method, f"/v1/campaigns/{campaign}{path}", 404, json=body)
        assert "no campaign" in problem["detail"]
    await api.load(campaign, ndjson([{"email": "a@example.test"}]), NDJSON, 404)
    await api.post(f"/v1/campaigns/{campaign}/test", {"recipients": [{"email": "a@example.test"}]}, 404)
    for path in ("/v1/campaigns", "/v1/suppressions"):
        assert (await api.get(path))["data"] == []
    assert "scope operator" in (await api.get("/v1/batches", 403))["detail"]


async def test_retries_go_by_the_schedule_unless_the_campaign_sets_its_own(api: ApiRig) -> None:
    campaign = await api.post("/v1/campaigns", campaign_body(), 201)
    assert (campaign["max_retries"], campaign["retry_delay_seconds"]) == (None, None)
    path = f"/v1/campaigns/{campaign['id']}"
    changes: list[tuple[dict[str, Any], tuple[int | None, int | None]]] = [
        ({"max_retries": 5}, (5, 60)),
        ({"retry_delay_seconds": 10}, (5, 10)),
        ({"max_retries": None}, (3, 10)),
        ({"max_retries": None, "retry_delay_seconds": None}, (None, None)),
        ({"retry_delay_seconds": 10}, (3, 10)),
    ]
    for change, expected in changes:
        changed = await api.request("PATCH", path, json=change)
        assert (changed["max_retries"], changed["retry_delay_seconds"]) == expected, change


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"text": "You have {{ orders }}{% if orders > 5 %}!{% endif %}"}, "#/text", "must be a number such as 7"),
        ({"html": '<a href="{{ site }}">x</a>'}, "#/html", "starts a link"),
        ({"subject": "{{ address }}"}, "#/subject", "stands in the subject"),
    ],
)
async def test_changed_content_must_fit_every_recipient_that_is_stored(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], pointer: str, words: str
) -> None:
    monkeypatch.setattr("services.api.usecases.fit.CHUNK_ROWS", 2)
    fine = {"orders": "7", "site": "https://a.example", "nickname": "A", "address": "Rome"}
    wrong = {"orders": "many", "site": "a.example", "nickname": " ", "address": "Rome\nItaly"}
    campaign = await api.create()
    rows = [{"email": f"r{number}@example.test", **fine} for number in range(4)]
    await api.load(campaign, ndjson([*rows, {"email": "last@example.test", **wrong}]), NDJSON)
    path = f"/v1/campaigns/{campaign}"
    problem = await api.request("PATCH", path, 422, json=change)
    [error] = problem["errors"]
    assert error["pointer"] == pointer
    assert words in error["detail"]
    assert (problem["errors"][0]["email"], error["line"]) == ("last@example.test", 1)
    assert (await api.show(campaign))["subject"] == "News"
    guarded = {"text": "{% if orders == 7 %}{{ nickname|default('you') }}{% endif %}"}
    assert (await api.request("PATCH", path, json=guarded))["text"] == guarded["text"]


async def test_recipients_that_arrive_while_content_is_compared_are_not_missed(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = await api.create(1)

    async def compared(*_: Any) -> None:
        await api.load(campaign, ndjson([{"email": "new@example.test", "orders": "many"}]), NDJSON)

    monkeypatch.setattr("services.api.usecases.changes.require_fit", compared)
    body = {"text": "{% if orders and orders > 5 %}!{% endif %}."}
    problem = await api.request("PATCH", f"/v1/campaigns/{campaign}", 409, json=body)
    assert problem["type"].endswith("changed-meanwhile")


async def test_a_small_change_of_a_large_content_waits_for_room(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of 20 bytes must not make the API work on megabytes beside others."""
    large = {"filename": "a.bin", "content_type": "application/pdf", "content": "MTAg" * 100_000}
    path = f"/v1/campaigns/{await api.create(attachments=[large])}"
    asked: list[int] = []
    of = api.api.working.of

    def noting(size: int) -> Any:
        asked.append(size)
        return of(size)

    monkeypatch.setattr(api.api.working, "of", noting)
    await api.request("PATCH", path, json={"subject": "Other"})
    assert len(asked) == 1
    assert asked[0] > 400_000
    await api.request("PATCH", path, json={"name": "Other"})
    assert asked[1:] == [0]


async def test_a_large_change_holds_its_room_already_and_waits_for_no_more(api: ApiRig) -> None:
    large = {"filename": "a.bin", "content_type": "application/pdf", "content": "MTAg" * 100_000}
    path = f"/v1/campaigns/{await api.create(attachments=[large])}"
    await api.request("PATCH", path, json={"attachments": [large, large | {"filename": "b.bin"}]})
    assert (await api.get(path))["attachments"] == ["a.bin", "b.bin"]
