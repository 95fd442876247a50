"""Recipients by status, suppressions, and the unsubscribe link."""

import csv
import gzip
import io
import json
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, insert, select, update
from sqlmodel import col

from services.api.usecases import export_lines, recipient_export, recipients
from shared.ledger.database import db_now
from shared.ledger.models import DEFAULT_PROJECT, Batch, Campaign, Recipient, Suppression
from shared.ledger.report_tables import Report
from shared.ledger.states import OPEN, RecipientStatus
from shared.signing import Use, derived_key
from shared.unsubscribe import make_token
from tests.support.api import SECRET_KEY, ApiRig, api_on

UNSUBSCRIBE_KEY = derived_key(SECRET_KEY.encode(), Use.UNSUBSCRIBE)


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def settle(api: ApiRig, campaign: str, batch_size: int, statuses: list[str]) -> None:
    """Gives the first recipients these statuses, in batches that count them, as a sender would."""
    own = UUID(campaign)
    async with api.ledger.write() as connection:
        ids = list(
            (
                await connection.execute(
                    select(col(Recipient.id)).where(col(Recipient.campaign_id) == own).order_by(col(Recipient.id))
                )
            ).scalars()
        )
        for first in range(0, len(statuses), batch_size):
            part = statuses[first : first + batch_size]
            held = ids[first : first + len(part)]
            for recipient, status in zip(held, part, strict=True):
                await connection.execute(
                    update(Recipient).where(col(Recipient.id) == recipient).values(status=status, smtp_code=250)
                )
            counts = {status.value: part.count(status.value) for status in RecipientStatus}
            await connection.execute(
                insert(Batch).values(
                    campaign_id=own,
                    first_id=held[0],
                    last_id=held[-1],
                    size=len(part),
                    state="waiting" if set(part) & set(OPEN) else "done",
                    due_at=0.0,
                    **counts,
                )
            )
        await connection.execute(update(Campaign).where(col(Campaign.id) == own).values(cursor=ids[len(statuses) - 1]))


async def test_each_status_lists_exactly_its_recipients_in_order(api: ApiRig) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    kinds = [status.value for status in RecipientStatus]
    campaign, other = await api.create(60), await api.create(["else@example.test"])
    statuses = [chance.choice(kinds) for _ in range(40)]
    await settle(api, campaign, 7, statuses)
    expected = statuses + ["pending"] * 20
    for kind in kinds:
        wanted = [f"person-{n}@example.test" for n, status in enumerate(expected) if status == kind]
        for limit in (1, 3, 1000):
            assert await api.emails(campaign, status=kind, limit=limit) == wanted, f"seed {seed}"
    assert len(await api.emails(campaign, limit=7)) == 60
    assert await api.emails(other) == ["else@example.test"]
    await api.get(f"/v1/campaigns/{campaign}/recipients", 422, status="lost")


async def test_a_few_failed_among_many_are_found_without_reading_the_many(api: ApiRig) -> None:
    campaign = await api.create(600)
    statuses = ["sent"] * 600
    statuses[5] = statuses[595] = "failed"
    await settle(api, campaign, 10, statuses)
    read: list[Any] = []

    def executed(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM recipient" in statement:
            read.append((statement, parameters))

    event.listen(api.ledger.engine.sync_engine, "before_cursor_execute", executed)
    failed = await api.emails(campaign, status="failed")
    assert failed == ["person-5@example.test", "person-595@example.test"]
    assert len(read) == 1
    assert read[0][0].count("BETWEEN") == 2


async def test_suppressions_are_added_one_by_one_or_in_bulk_and_removed(api: ApiRig) -> None:
    assert await api.post("/v1/suppressions", {"email": "Ann@Example.test", "detail": "by telephone"}, 200) == {
        "added": 1,
        "known": 0,
    }
    bulk = {"suppressions": [{"email": "ann@example.test", "reason": "bounced"}, {"email": "bob@example.test"}]}
    assert await api.post("/v1/suppressions", bulk, 200) == {"added": 1, "known": 1}
    [bob, ann] = (await api.get("/v1/suppressions"))["data"]
    assert (ann["email"], ann["reason"], ann["detail"]) == ("Ann@example.test", "manual", "by telephone")
    assert [one["email"] for one in (await api.get("/v1/suppressions", email="ANN@example.test"))["data"]] == [
        ann["email"]
    ]
    assert (await api.get("/v1/suppressions", reason="bounced"))["data"] == []
    page = await api.get("/v1/suppressions", limit=1)
    assert page["data"] == [bob]
    assert (await api.get("/v1/suppressions", limit=1, cursor=page["next_cursor"]))["data"] == [ann]
    await api.request("DELETE", "/v1/suppressions", 204, params={"email": "ANN@example.test"})
    await api.request("DELETE", "/v1/suppressions", 404, params={"email": "ann@example.test"})
    await api.request("DELETE", "/v1/suppressions", 422, params={"email": "ann"})
    await api.request("DELETE", "/v1/suppressions", 422)


async def test_many_suppressions_are_counted_and_removed_at_once(api: ApiRig) -> None:
    campaign, moment = uuid4(), 1_000_000_000.0
    async with api.ledger.write() as connection:
        await connection.execute(
            insert(Suppression).values(project_id=DEFAULT_PROJECT),
            [
                {
                    "email": f"{name}@example.test",
                    "email_key": f"{name}@example.test",
                    "reason": reason,
                    "campaign_id": of,
                    "created_at": moment + after,
                }
                for name, reason, of, after in (
                    ("old", "bounced", campaign, -10.0),
                    ("new", "bounced", campaign, 10.0),
                    ("newer", "bounced", campaign, 20.0),
                    ("left", "unsubscribed", campaign, 20.0),
                    ("other", "bounced", uuid4(), 20.0),
                )
            ],
        )

    async def remove(expect: int = 200, **params: Any) -> Any:
        return await api.request("DELETE", "/v1/suppressions", expect, params=params)

    wanted: dict[str, Any] = {"campaign_id": str(campaign), "reason": "bounced", "since": "2001-09-09T01:46:40Z"}
    assert await remove(**wanted, dry_run="true") == {"removed": 0, "matching": 2}
    assert await remove(**wanted) == {"removed": 2, "matching": 2}
    assert await remove(**wanted) == {"removed": 0, "matching": 0}
    left = [one["email"].partition("@")[0] for one in (await api.get("/v1/suppressions"))["data"]]
    assert left == ["other", "left", "old"]
    await remove(422, email="old@example.test", reason="bounced")
    await remove(422, dry_run="true")
    await remove(422, since="2001-09-09T01:46:40")


async def test_a_certain_suppression_replaces_one_in_doubt(api: ApiRig) -> None:
    """Else undoing what a breaker did would undo an unsubscription as well."""
    async with api.ledger.write() as connection:
        doubted = {"email": "ann@example.test", "email_key": "ann@example.test", "reason": "bounced"}
        await connection.execute(
            insert(Suppression).values(project_id=DEFAULT_PROJECT, created_at=db_now(), provisional=True, **doubted)
        )
    await api.post("/v1/suppressions", {"email": "ann@example.test", "reason": "unsubscribed"}, 200)
    [ann] = (await api.get("/v1/suppressions"))["data"]
    assert (ann["reason"], ann["provisional"]) == ("unsubscribed", False)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#"),
        ({"email": "a@example.test", "suppressions": [{"email": "b@example.test"}]}, "#"),
        ({"email": "nobody"}, "#/email"),
        ({"suppressions": [{"email": "a@example.test"}, {"email": "nobody"}]}, "#/suppressions/1/email"),
        ({"email": "a@example.test", "reason": "hunch"}, "#/reason"),
    ],
)
async def test_a_wrong_suppression_is_pointed_to(api: ApiRig, body: dict[str, Any], pointer: str) -> None:
    assert (await api.post("/v1/suppressions", body, 422))["errors"][0]["pointer"] == pointer
    assert (await api.get("/v1/suppressions"))["data"] == []


async def link(api: ApiRig, campaign: str, number: int = 0, *, key: bytes = UNSUBSCRIBE_KEY) -> str:
    rows = (await api.get(f"/v1/campaigns/{campaign}/recipients"))["data"]
    return f"/u/{make_token(key, UUID(campaign), rows[number]['id'])}"


async def test_the_link_shows_a_page_and_only_the_button_acts(api: ApiRig) -> None:
    campaign = await api.create(["ann@example.test"])
    path = await link(api, campaign)
    del api.client.headers["Authorization"]
    for method in ("GET", "HEAD"):
        answer = await api.client.request(method, path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "noindex" in answer.headers["x-robots-tag"]
        assert answer.headers["cache-control"] == "no-store"
    page = (await api.client.get(path, headers={"Accept-Language": "ru-RU,ru;q=0.9"})).text
    assert "<form" in page
    assert "a•••@example.test" in page
    assert "ann@example.test" not in page
    assert 'lang="ru"' in page
    api.client.headers["Authorization"] = f"Bearer {await api.key()}"
    assert (await api.get("/v1/suppressions"))["data"] == []


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"List-Unsubscribe": "One-Click"}},
        {"content": b""},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
    ],
)
async def test_one_click_unsubscribes_and_may_be_repeated(api: ApiRig, options: dict[str, Any]) -> None:
    campaign = await api.create(["ann@example.test", "bob@example.test"])
    path = await link(api, campaign)
    for _ in range(2):
        answer = await api.client.post(path, headers={"Authorization": ""}, **options)
        assert answer.status_code == 200
        assert "a•••@example.test" in answer.text
    [suppressed] = (await api.get("/v1/suppressions"))["data"]
    assert (suppressed["email"], suppressed["reason"], suppressed["campaign_id"]) == (
        "ann@example.test",
        "unsubscribed",
        campaign,
    )


async def test_a_link_that_was_not_made_here_gets_a_friendly_page(api: ApiRig) -> None:
    campaign = await api.create(["ann@example.test"])
    good = await link(api, campaign)
    forged = good[:-1] + ("A" if good[-1] != "A" else "B")
    elsewhere = f"/u/{make_token(UNSUBSCRIBE_KEY, uuid4(), 1)}"
    beyond = f"/u/{make_token(UNSUBSCRIBE_KEY, UUID(campaign), 2**63 - 1)}"
    for path in (forged, elsewhere, beyond, "/u/x", f"/u/{'€' * 56}"):
        for method in ("GET", "POST"):
            answer = await api.client.request(method, path)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
            assert "damaged" in answer.text
    assert (await api.get("/v1/suppressions"))["data"] == []


async def test_an_old_key_still_opens_its_links(database_url: str) -> None:
    """Links of a secret that was rotated, and those of release 0.1.0, which signed with the secret itself."""
    async with api_on(database_url, secret_key=f"{'n' * 40},{SECRET_KEY}") as api:
        for key in (UNSUBSCRIBE_KEY, SECRET_KEY.encode(), b"n" * 40):
            campaign = await api.create(["ann@example.test"])
            assert (await api.client.post(await link(api, campaign, key=key))).status_code == 200


async def exported(api: ApiRig, campaign: str, **params: str) -> bytes:
    answer = await api.client.get(f"/v1/campaigns/{campaign}/recipients/export", params=params)
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_recipients_are_exported_whole_in_the_order_of_import(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.usecases.recipient_export.SLICE_ROWS", 3)
    campaign = await api.create([f"person-{number}@example.test" for number in range(10)])
    await settle(api, campaign, 4, ["sent", "failed", "sent", "sent", "failed", "deferred"])
    shown = (await api.get(f"/v1/campaigns/{campaign}/recipients"))["data"]
    assert len(shown) == 10
    lines = (await exported(api, campaign, format="ndjson")).decode().splitlines()
    assert [json.loads(line) for line in lines] == shown
    packed = await exported(api, campaign, format="ndjson", gzip="true")
    assert gzip.decompress(packed).decode().splitlines() == lines
    table = list(csv.DictReader(io.StringIO((await exported(api, campaign)).decode())))
    assert [row["email"] for row in table] == [one["email"] for one in shown]
    assert [json.loads(row["data"]) for row in table] == [one["data"] for one in shown]
    assert list(table[0]) == list(shown[0])
    failed = csv.DictReader(io.StringIO((await exported(api, campaign, status="failed")).decode()))
    assert [row["email"] for row in failed] == ["person-1@example.test", "person-4@example.test"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, range(60)),
        ({"status": "sent"}, range(50)),
        ({"status": "pending"}, range(50, 60)),
        ({"reported": "bounced"}, range(50)),
    ],
)
async def test_an_export_holds_few_recipients_with_much_data(
    query: dict[str, str], expected: range, api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a slice have about SLICE_BYTES of data together, wherever in the campaign they are; none is left out."""
    monkeypatch.setattr(recipient_export, "SLICE_BYTES", 1_000)
    monkeypatch.setattr(export_lines, "PART_LENGTH", 1_000)
    campaign = await api.create()
    people = [{"email": f"p{n}@example.test", **({"x": "y" * 700} if n > 20 else {})} for n in range(60)]
    lines = "\n".join(json.dumps(one) for one in people)
    headers = {"Content-Type": "application/x-ndjson"}
    await api.client.post(f"/v1/campaigns/{campaign}/recipients", content=lines, headers=headers)
    await settle(api, campaign, 10, ["sent"] * 50)
    async with api.ledger.write() as connection:
        sent = await connection.scalars(select(col(Recipient.id)).where(col(Recipient.status) == "sent"))
        await connection.execute(insert(Report), [bounce(UUID(campaign), recipient_id) for recipient_id in sent.all()])
    slices = []
    read = recipients.read

    async def noting(*args: Any) -> Any:
        slices.append(await read(*args))
        return slices[-1]

    monkeypatch.setattr(recipients, "read", noting)
    rows = [json.loads(line) for line in (await exported(api, campaign, format="ndjson", **query)).splitlines()]
    assert [row["email"] for row in rows] == [f"p{number}@example.test" for number in expected]
    assert max(sum(len(row.data or "") for row in part) for part in slices) < 1_000 + 750
    assert slices[-1] == []


def bounce(campaign: UUID, recipient: int) -> dict[str, Any]:
    return {
        "digest": f"{campaign}{recipient}",
        "at": 0.0,
        "project_id": DEFAULT_PROJECT,
        "campaign_id": campaign,
        "recipient_id": recipient,
        "kind": "bounced",
        "verified": True,
        "via": "api",
    }


async def test_the_export_of_no_recipients_is_a_heading(api: ApiRig) -> None:
    campaign = await api.create()
    assert (await exported(api, campaign)).decode().startswith("id,email,data,status,")
    assert await exported(api, campaign, format="ndjson") == b""
    missing = await api.client.get(f"/v1/campaigns/{uuid4()}/recipients/export")
    assert missing.status_code == 404


async def test_a_reply_that_a_spreadsheet_takes_for_a_formula_is_text(api: ApiRig) -> None:
    campaign = await api.create(["=ann@example.test"])
    async with api.ledger.write() as connection:
        reply = update(Recipient).where(col(Recipient.campaign_id) == UUID(campaign))
        await connection.execute(reply.values(reply='=HYPERLINK("http://example.test","x")', sent_at=1_700_000_000.5))
    [row] = csv.DictReader(io.StringIO((await exported(api, campaign)).decode()))
    assert row["reply"] == '\'=HYPERLINK("http://example.test","x")'
    assert row["email"] == "'=ann@example.test"
    assert row["sent_at"] == "2023-11-14T22:13:20.500000Z"
