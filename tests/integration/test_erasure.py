"""Erasing a person: nothing in the ledger names the person afterwards, the counts stay, and no email goes out again."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel, col

from services.api.housekeeping import Housekeeping
from services.api.usecases import erased_texts, erasing, suppression_export
from services.sender.db import claims
from services.sender.db.record import Group, record
from services.sender.db.worklist import read_worklist
from services.sender.results import Result
from shared.ledger import hashed, outbox
from shared.ledger.database import Ledger
from shared.ledger.erasure_tables import Erasure, HashSecret
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import (
    DEFAULT_PROJECT,
    Batch,
    Campaign,
    IdempotencyKey,
    Import,
    Recipient,
    RelayRefusals,
    Suppression,
    Timeline,
)
from shared.ledger.outbox_tables import EventStream
from shared.ledger.report_tables import Report
from shared.settings import SenderSettings, load
from shared.signing import Use
from tests.support.api import CSV, ApiRig, api_on
from tests.support.seeds import Seeded, seed_campaign

ANN = "ann@example.test"


@pytest.fixture
async def rig(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiRig]:
    monkeypatch.setattr(erasing, "SETTLE_SECONDS", -1.0)
    async with api_on(database_url) as api:
        yield api


async def work(rig: ApiRig) -> None:
    """What a process of the API does each second."""
    await Housekeeping(rig.api, "api-test").erase()


async def erase(rig: ApiRig, email: str = ANN, **body: Any) -> Any:
    asked = await rig.post("/v1/erase", {"email": email, **body}, 202)
    assert asked["state"] == "running"
    await work(rig)
    return await rig.post("/v1/erase", {"email": email, **body}, 200)


async def all_text(ledger: Ledger) -> str:
    """Every value of every table, in lower case."""
    values: list[str] = []
    async with ledger.read() as connection:
        for table in SQLModel.metadata.sorted_tables:
            values += [f"{table.name}: {tuple(row)}" for row in await connection.execute(select(table))]
    return "\n".join(values).lower()


async def rename(ledger: Ledger, recipient_id: int, email: str = ANN, **columns: Any) -> None:
    values = {"email": email, "email_key": email.lower(), **columns}
    async with ledger.write() as connection:
        await connection.execute(update(Recipient).where(col(Recipient.id) == recipient_id).values(**values))


async def row_of(ledger: Ledger, recipient_id: int) -> Any:
    async with ledger.read() as connection:
        found = await connection.execute(select(Recipient.__table__).where(col(Recipient.id) == recipient_id))  # type: ignore[attr-defined]
        return found.one()


async def batch_of(ledger: Ledger, seeded: Seeded) -> Any:
    async with ledger.read() as connection:
        found = await connection.execute(select(Batch.__table__).where(col(Batch.id) == seeded.batch_ids[0]))  # type: ignore[attr-defined]
        return found.one()


async def test_nothing_in_the_ledger_names_the_person_afterwards(rig: ApiRig) -> None:
    """In every table and column. What names others, and every count, stays."""
    seeded = await seed_campaign(rig.ledger, 3)
    first, second, _ = seeded.recipient_ids
    said = f"550 5.1.1 <{ANN.upper()}>: unknown; bounce+ann=example.test@relay"
    await rename(
        rig.ledger, first, "Ann@example.test", status="failed", data='{"name":"Ann"}', reply=said, queue_id="Q1"
    )
    facts = [Fact(FactType.RECIPIENT_FAILED, seeded.id, first, {"reply": said})]
    async with rig.ledger.write() as connection:
        await connection.execute(update(Batch).values(pending=2, failed=1))
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, wanted=True))
        await outbox.tell(connection, DEFAULT_PROJECT, facts)
        await connection.execute(update(Campaign).values(reason=f"refused: {said}", blocked_by=said))
        for model, values in (
            (Timeline, {"campaign_id": seeded.id, "at": 0.0, "last_at": 0.0, "kind": "paused", "text": said}),
            (Import, {"campaign_id": seeded.id, "format": "csv", "state": "done", "problems": f'[{{"value":"{ANN}"}}]',
                      "created_at": 0.0, "updated_at": 0.0, "error": said}),
            (RelayRefusals, {"campaign_id": seeded.id, "relay": "r", "recent": "[]", "reply": said}),
            (IdempotencyKey, {"project_id": DEFAULT_PROJECT, "key": "one", "request_digest": "", "status_code": 200,
                              "response": f'{{"email":"{ANN}"}}', "created_at": 0.0}),
            (IdempotencyKey, {"project_id": DEFAULT_PROJECT, "key": f"add {ANN}", "request_digest": "",
                              "created_at": 0.0}),
            (Suppression, {"project_id": DEFAULT_PROJECT, "email": ANN, "email_key": ANN, "reason": "bounced",
                           "detail": said, "created_at": 0.0}),
            (Suppression, {"project_id": DEFAULT_PROJECT, "email": "joann@example.test",
                           "email_key": "joann@example.test", "reason": "bounced", "detail": said, "created_at": 0.0}),
            (Report, {"digest": "1", "at": 0.0, "project_id": DEFAULT_PROJECT, "campaign_id": seeded.id,
                      "recipient_id": first, "kind": "bounced", "verified": True, "email": ANN, "email_key": ANN,
                      "via": "mail", "text": said}),
            (Report, {"digest": "2", "at": 0.0, "kind": "bounced", "verified": False, "email": ANN, "email_key": ANN,
                      "via": "mail", "text": said}),
        ):  # fmt: skip
            await connection.execute(insert(model).values(**values))
    assert await all_text(rig.ledger) != ""

    done = await erase(rig)

    assert done == {"state": "done", "recipients": 1, "projects": 1, "projects_done": 1}
    everything = await all_text(rig.ledger)
    named = [line for line in everything.splitlines() if ANN in line.replace("joann@example.test", "")]
    assert named == []
    assert "ann=example.test" not in everything
    assert "joann@example.test" in everything
    erased = await row_of(rig.ledger, first)
    assert (erased.status, erased.email, erased.data, erased.reply, erased.queue_id) == ("failed", "", None, None, None)
    assert (await row_of(rig.ledger, second)).email == "person-1@example.test"
    batch = await batch_of(rig.ledger, seeded)
    assert (batch.pending, batch.failed, batch.cancelled) == (2, 1, 0)


async def test_open_recipients_are_cancelled_and_counted(rig: ApiRig) -> None:
    """One whose body may have left becomes unknown, as when a campaign is cancelled."""
    seeded = await seed_campaign(rig.ledger, 4)
    other = await seed_campaign(rig.ledger, 1)
    await rename(rig.ledger, seeded.recipient_ids[0], status="deferred", next_attempt_at=1e12, attempts=1)
    await rename(rig.ledger, other.recipient_ids[0], intent_at=1.0)
    async with rig.ledger.write() as connection:
        await connection.execute(
            update(Batch).where(col(Batch.id) == seeded.batch_ids[0]).values(pending=3, deferred=1)
        )
        await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, wanted=True))

    assert (await erase(rig))["recipients"] == 2

    batch = await batch_of(rig.ledger, seeded)
    assert (batch.pending, batch.deferred, batch.cancelled, batch.generation) == (3, 0, 1, 1)
    assert (await row_of(rig.ledger, seeded.recipient_ids[0])).status == "cancelled"
    assert (await row_of(rig.ledger, other.recipient_ids[0])).status == "unknown"
    assert (await batch_of(rig.ledger, other)).unknown == 1
    told = await all_text(rig.ledger)
    assert "recipient.cancelled" in told
    assert "recipient.unknown" in told


async def test_results_that_come_after_the_erasure(rig: ApiRig) -> None:
    """A sender had the emails: what a relay accepted is recorded without the reply, the rest is dropped, and a mailbox
    that is gone puts no address back on the list."""
    seeded = await seed_campaign(rig.ledger, 3)
    sent, gone, _ = seeded.recipient_ids
    other = await seed_campaign(rig.ledger, 1)
    claimed = await claims.claim(rig.ledger, seeded.batch_ids[0], 1, "sender-1", 15.0)
    assert claimed is not None
    await rename(rig.ledger, sent)
    await rename(rig.ledger, gone, "bob@example.test")
    await rename(rig.ledger, other.recipient_ids[0])
    for email in (ANN, "bob@example.test"):
        await rig.post("/v1/erase", {"email": email}, 202)
    await work(rig)
    assert (await row_of(rig.ledger, sent)).email == ""
    said = f"accepted for {ANN}"
    results = [
        Result(sent, ANN, "pending", 0, "sent", 1, code=250, reply=said, relay="r", queue_id=ANN),
        Result(gone, "bob@example.test", "pending", 0, "failed", 1, code=550, reply=said, suppress=True),
    ]
    group = Group(
        claimed.batch_id, claimed.generation, claimed.campaign_id, DEFAULT_PROJECT, results, wants_events=True
    )

    first = await record(rig.ledger, [group], 15.0)
    repeated = await record(rig.ledger, [group], 15.0)

    assert [result.recipient_id for result in first[claimed.batch_id].results] == [sent]
    assert repeated[claimed.batch_id].known_duplicates == 0
    # While the sender has the batch, it may have the address: it stays suppressed.
    await work(rig)
    assert (await rig.post("/v1/erase", {"email": ANN}, 202))["recipients"] == 2
    keys = {DEFAULT_PROJECT: [ANN, "bob@example.test"]}
    _, suppressed = await claims.look(rig.ledger, [claimed.batch_id], keys)
    assert set(suppressed[DEFAULT_PROJECT]) == {ANN, "bob@example.test"}
    assert (await claims.let_go(rig.ledger, claimed)).state == "waiting"
    await work(rig)
    assert (await rig.post("/v1/erase", {"email": ANN}, 200))["recipients"] == 2
    batch = await batch_of(rig.ledger, seeded)
    assert (batch.pending, batch.sent, batch.cancelled, batch.failed) == (1, 1, 1, 0)
    everything = await all_text(rig.ledger)
    assert ANN not in everything
    assert "bob@example.test" not in everything


async def test_an_erased_person_is_not_imported_again(rig: ApiRig) -> None:
    """Neither from a file nor with a campaign, nor as a test, nor as a suppression, in whatever case."""
    campaign = await rig.create([ANN, "bob@example.test"])
    await erase(rig)

    report = await rig.load(campaign, "email\nANN@example.test\ncleo@example.test\n", CSV)
    assert (report["accepted"], report["invalid"], report["problems"][0]["line"]) == (1, 1, 2)
    assert (await rig.emails(campaign)) == ["", "bob@example.test", "cleo@example.test"]
    inline = await rig.create(["Ann@Example.test", "bob@example.test"])
    assert (await rig.show(inline))["counts"]["total"] == 1
    await rig.post(f"/v1/campaigns/{campaign}/test", {"recipients": [{"email": ANN}]}, 422)
    assert await rig.post("/v1/suppressions", {"email": ANN}, 200) == {"added": 0, "known": 1}
    assert ANN not in await all_text(rig.ledger)


async def test_a_sender_knows_the_hash(rig: ApiRig) -> None:
    """With no more than its unsubscribe key: for recipients that a process of another release has imported."""
    await erase(rig)
    seeded = await seed_campaign(rig.ledger, 2)
    await rename(rig.ledger, seeded.recipient_ids[0])
    claimed = await claims.claim(rig.ledger, seeded.batch_ids[0], 1, "sender-1", 15.0)
    assert claimed is not None
    unsubscribe_key = rig.api.settings.signing_keys(Use.UNSUBSCRIBE)[0].decode()
    sender = load(SenderSettings, unsubscribe_key=unsubscribe_key, secret_key="")
    stranger = load(SenderSettings, unsubscribe_key="x" * 43, secret_key="")

    rows = await read_worklist(rig.ledger, claimed, DEFAULT_PROJECT, 0, 10, sender.hash_roots)
    blind = await read_worklist(rig.ledger, claimed, DEFAULT_PROJECT, 0, 10, stranger.hash_roots)

    assert [row.suppressed for row in rows] == [True, False]
    assert [row.suppressed for row in blind] == [False, False]


async def test_who_may_lift_it(rig: ApiRig) -> None:
    """An operator, by the address. Lists show an erased person without it."""
    await erase(rig)
    [shown] = (await rig.get("/v1/suppressions"))["data"]
    assert (shown["email"], shown["reason"]) == ("", "erased")
    assert (await rig.get("/v1/suppressions", email="ANN@example.test"))["data"] == [shown]
    assert (await rig.get("/v1/suppressions", email="bob@example.test"))["data"] == []
    keys = await rig.post("/v1/keys", {"name": "crm", "scopes": ["campaigns:read", "audience:write"]}, 201)
    crm = {"Authorization": f"Bearer {keys['key']}"}
    refused = await rig.request("DELETE", "/v1/suppressions", 403, params={"email": ANN}, headers=crm)
    assert refused["type"].endswith("erased-person")
    assert (await rig.request("DELETE", "/v1/suppressions", params={"since": "2000-01-01T00:00:00Z"}))["removed"] == 0

    await rig.request("DELETE", "/v1/suppressions", 204, params={"email": ANN})

    assert (await rig.get("/v1/suppressions"))["data"] == []
    campaign = await rig.create([ANN])
    assert await rig.emails(campaign) == [ANN]


async def test_two_erasures_of_one_person_at_once_and_two_that_work(rig: ApiRig) -> None:
    """There is one erasure, and each row is counted once."""
    for _ in range(5):
        await rename(rig.ledger, (await seed_campaign(rig.ledger, 2)).recipient_ids[0])
    asked = await asyncio.gather(*(rig.post("/v1/erase", {"email": ANN}, 202) for _ in range(4)))
    assert {one["state"] for one in asked} == {"running"}
    await asyncio.gather(work(rig), work(rig))
    assert await rig.post("/v1/erase", {"email": ANN}, 200) == {
        "state": "done", "recipients": 5, "projects": 1, "projects_done": 1
    }  # fmt: skip
    async with rig.ledger.read() as connection:
        assert len((await connection.execute(select(Erasure.__table__))).all()) == 1  # type: ignore[attr-defined]


async def test_a_process_that_dies_in_between_loses_nothing(rig: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed after every step, before and after the commit; another goes on."""
    monkeypatch.setattr(erasing, "CAMPAIGNS_AT_ONCE", 1)
    for _ in range(3):
        await rename(rig.ledger, (await seed_campaign(rig.ledger, 1)).recipient_ids[0])
    await rig.post("/v1/erase", {"email": ANN}, 202)
    async with rig.ledger.read() as connection:
        [erasure_id] = await erasing.due(connection)
    search = erased_texts.of_campaigns

    async def dies(*given: Any) -> None:
        await search(*given)
        raise ConnectionAbortedError

    steps = 0
    while True:
        with monkeypatch.context() as patched:
            patched.setattr(erased_texts, "of_campaigns", dies)
            with pytest.raises(ConnectionAbortedError):
                await erasing.step(rig.ledger, erasure_id)
        assert ANN in await all_text(rig.ledger)
        steps += 1
        await erasing.step(rig.ledger, erasure_id)
        if steps == 3:
            break
    await work(rig)
    assert (await rig.post("/v1/erase", {"email": ANN}, 200))["recipients"] == 3
    assert ANN not in await all_text(rig.ledger)


async def test_everywhere_needs_an_operator(rig: ApiRig) -> None:
    other = await rig.post("/v1/projects", {"name": "other"}, 201)
    await rename(rig.ledger, (await seed_campaign(rig.ledger, 1)).recipient_ids[0])
    there = await seed_campaign(rig.ledger, 1, project_id=UUID(other["id"]))
    await rename(rig.ledger, there.recipient_ids[0])
    keys = await rig.post("/v1/keys", {"name": "crm", "scopes": ["audience:write"]}, 201)
    headers = {"Authorization": f"Bearer {keys['key']}"}
    await rig.post("/v1/erase", {"email": ANN, "all_projects": True}, 403, headers)

    assert (await erase(rig))["recipients"] == 1
    assert (await row_of(rig.ledger, there.recipient_ids[0])).email == ANN
    done = await erase(rig, all_projects=True)
    assert (done["recipients"], done["projects_done"]) == (2, 2)
    assert ANN not in await all_text(rig.ledger)


async def test_the_secret_of_the_hashes_survives_a_rotation(rig: ApiRig, database_url: str) -> None:
    """The former key may go once the API has run with both. Without any that opens it, nothing is imported."""
    await erase(rig)
    old, new = rig.api.settings.hash_roots, ApiRig.on(rig.ledger, secret_key="y" * 40).api.settings.hash_roots
    campaign = await rig.create(["bob@example.test"])
    async with api_on(database_url, secret_key="y" * 40) as lost:
        refused = await lost.load(campaign, "email\nann@example.test\n", CSV, 503)
        assert refused["type"].endswith("hashes-sealed")
        await lost.post("/v1/erase", {"email": "bob@example.test"}, 503)
    async with rig.ledger.write() as connection:
        await hashed.maintain(connection, [*new, *old])
        await connection.execute(update(HashSecret).values(seen_at=0.0))
        await hashed.maintain(connection, new)
        assert len((await connection.execute(select(HashSecret.__table__))).all()) == len(new)  # type: ignore[attr-defined]
    async with api_on(database_url, secret_key="y" * 40) as rotated:
        report = await rotated.load(campaign, "email\nann@example.test\n", CSV)
        assert (report["accepted"], report["invalid"]) == (0, 1)


async def test_a_copy_of_the_database_does_not_show_who_was_erased(rig: ApiRig) -> None:
    """Nothing in it opens the secret: a guess cannot be tried."""
    await erase(rig)
    async with rig.ledger.read() as connection:
        sealed = list(await connection.scalars(select(col(HashSecret.sealed))))
        [key] = await connection.scalars(select(col(Suppression.email_key)))
        opened = await hashed.secret(connection, rig.api.settings.hash_roots)
    assert opened is not None
    assert all(opened.hex() not in one for one in sealed)
    assert key == hashed.key_of(opened, DEFAULT_PROJECT, ANN)
    assert key != hashed.key_of(opened, UUID(int=2), ANN)


async def test_the_audit_names_the_erasure_and_no_address(rig: ApiRig) -> None:
    await erase(rig)
    entries = (await rig.get("/v1/audit"))["data"]
    assert [(one["action"], one["result"]) for one in entries] == [("POST /v1/erase", "done")]
    assert ANN not in str(entries)


async def test_an_address_that_is_none(rig: ApiRig) -> None:
    refused = await rig.post("/v1/erase", {"email": "no address"}, 422)
    assert refused["errors"][0]["pointer"] == "#/email"


async def test_a_plan_without_a_search_through_all_recipients(postgresql_url: str) -> None:
    """The suppressions without address are found by their index, whatever the length of the list."""
    ledger = Ledger(postgresql_url)
    async with ledger.write() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(
            await connection.scalars(
                text("EXPLAIN SELECT id FROM suppression WHERE project_id = :project AND email = ''"),
                {"project": DEFAULT_PROJECT},
            )
        )
    await ledger.close()
    assert "suppression_hashed" in plan


async def test_suppressions_are_exported_without_the_erased_address(
    rig: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CSV and NDJSON, packed or not, whatever the number of slices; also while the person is being erased."""
    monkeypatch.setattr(suppression_export, "SLICE_ROWS", 2)
    people = [f"person-{number}@example.test" for number in range(5)]
    await rig.post("/v1/suppressions", {"suppressions": [{"email": one, "detail": "=1"} for one in people]}, 200)
    await rig.post("/v1/erase", {"email": ANN}, 202)

    csv = await rig.client.get("/v1/suppressions/export")
    packed = await rig.client.get("/v1/suppressions/export?format=ndjson&gzip=true")

    assert csv.headers["content-type"].startswith("text/csv")
    lines = csv.text.splitlines()
    expected = [["", "erased", ""], *([one, "manual", "'=1"] for one in people)]
    assert sorted(line.split(",")[1:4] for line in lines[1:]) == expected
    rows = [orjson.loads(line) for line in gzip.decompress(packed.content).splitlines()]
    assert sorted(row["email"] for row in rows) == ["", *people]
    assert list(rows[0]) == lines[0].split(",")
    only = await rig.client.get("/v1/suppressions/export?format=ndjson&reason=erased")
    assert len(only.text.splitlines()) == 1


async def test_an_error_of_the_database_names_no_address(database_url: str) -> None:
    """Processes log errors that they did not foresee with all they say."""
    ledger = Ledger(database_url)
    with pytest.raises(DBAPIError) as raised:
        async with ledger.write() as connection:
            await connection.execute(text("INSERT INTO nowhere (email) VALUES (:email)"), {"email": ANN})
    await ledger.close()
    assert ANN not in str(raised.value)
