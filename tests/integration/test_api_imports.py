"""Imports: what is stored, what is left out and why, and that an import which does not finish leaves nothing."""

import asyncio
import gzip
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from cli.local.postgres import PrivatePostgres
from services.api.formats.ndjson import NdjsonParser
from services.api.formats.parser import Parsed
from services.api.housekeeping import Housekeeping
from services.api.usecases import import_rows
from shared.ledger import migrate
from shared.ledger.database import db_now
from shared.ledger.models import Import, Recipient
from tests.support.api import CSV, NDJSON, ApiRig, api_on, ndjson
from tests.support.ledger import assert_sound

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url, import_chunk_rows=4) as rig:
        yield rig


async def stored(api: ApiRig) -> int:
    """Recipients in the ledger, whether they count or not."""
    async with api.ledger.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(Recipient))).scalar_one())


def gzipped(document: bytes) -> bytes:
    return gzip.compress(document, mtime=0)


def zipped(name: str, document: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), document, zipfile.ZIP_DEFLATED)
    return out.getvalue()


class Upload:
    """A body that arrives when the test pushes it."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._taken: asyncio.Queue[None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece
            self._taken.put_nowait(None)  # the reader came back for more

    async def push(self, content: str) -> None:
        self._pieces.put_nowait(content.encode())
        await self._taken.get()

    def end(self) -> None:
        self._pieces.put_nowait(None)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is parsed and stored as it arrives."""
    monkeypatch.setattr("services.api.usecases.importer.PIECE_BYTES", 1)
    monkeypatch.setattr("services.api.usecases.importer.PATIENCE_SECONDS", 0.0)


async def begin(api: ApiRig, campaign: str, upload: Upload, **headers: str) -> tuple[asyncio.Task[Any], int]:
    """Starts an upload; returns its request and the import's id."""
    request = asyncio.create_task(
        api.client.post(f"/v1/campaigns/{campaign}/recipients", content=upload, headers={**NDJSON, **headers})
    )
    await upload.push(people(0, 6))
    shown = (await api.get(f"/v1/campaigns/{campaign}/imports"))["data"][0]
    assert shown["state"] == "open"
    return request, shown["id"]


def people(first: int, number: int) -> str:
    return ndjson({"email": f"p{n}@example.test"} for n in range(first, first + number))


async def eventually_stored(api: ApiRig, rows: int) -> None:
    async with asyncio.timeout(10):
        while await stored(api) < rows:
            pass


async def test_a_csv_is_imported_and_the_report_says_what_was_left_out(api: ApiRig) -> None:
    campaign = await api.create(["old@example.test"])
    document = (
        "email;name\nann@example.test;Ann\nOLD@example.test;Old\nnobody;N\nbob@example.test;Bob\nAnn@example.test;A\n"
        "cid@example.test;Cid\nann@example.test;Ann\n"
    )
    report = await api.load(campaign, document, CSV)
    assert {key: report[key] for key in ("state", "format", "lines", "accepted", "duplicates", "invalid")} == {
        "state": "done",
        "format": "csv",
        "lines": 7,
        "accepted": 3,
        "duplicates": 3,
        "invalid": 1,
    }
    assert [problem["line"] for problem in report["problems"]] == [3, 4, 6, 8]
    assert report["problems"][1]["value"] == "nobody"
    assert await api.emails(campaign) == [
        "old@example.test",
        "ann@example.test",
        "bob@example.test",
        "cid@example.test",
    ]
    [row] = (await api.get(f"/v1/campaigns/{campaign}/recipients", cursor=1, limit=1))["data"]
    assert row["data"] == {"name": "Ann"}
    assert report == await api.get(f"/v1/campaigns/{campaign}/imports/{report['id']}")
    assert (await api.kinds(campaign))[-1] == "imported"
    assert api.value("imported_rows_total", format="csv", outcome="accepted") == 3
    await assert_sound(api.ledger)


@pytest.mark.parametrize(
    ("media", "document"),
    [
        (NDJSON, people(0, 10)),
        (JSON, json.dumps({"recipients": [{"email": f"p{n}@example.test"} for n in range(10)]})),
        (JSON, json.dumps([{"email": f"p{n}@example.test"} for n in range(10)])),
        (CSV, "EMAIL\n" + "".join(f"p{n}@example.test\n" for n in range(10))),
        ({"Content-Type": "text/csv; charset=utf-8; header=present"}, "email\n" + "p@example.test\n"),
    ],
)
async def test_every_format(api: ApiRig, media: dict[str, str], document: str) -> None:
    campaign = await api.create()
    report = await api.load(campaign, document, media)
    assert report["accepted"] == report["lines"] == (await api.show(campaign))["counts"]["total"]


@pytest.mark.parametrize(
    ("media", "query", "document"),
    [
        (CSV, "", gzipped("email;имя\na@example.test;Анна\n".encode())),
        ({**CSV, "Content-Encoding": "gzip"}, "", gzipped("email;имя\na@example.test;Анна\n".encode())),
        ({"Content-Type": "application/zip"}, "", zipped("list.CSV", "email;имя\na@example.test;Анна\n")),
        ({"Content-Type": "application/zip"}, "", zipped("l.ndjson", '{"email": "a@example.test", "имя": "Анна"}')),
        ({"Content-Type": "application/zip"}, "?format=csv", zipped("export", "email;имя\na@example.test;Анна\n")),
        ({"Content-Type": "application/gzip"}, "?format=csv", gzipped("email;имя\na@example.test;Анна".encode())),
        (CSV, "", "email;имя\na@example.test;Анна\n".encode("utf-16")),
        (CSV, "?charset=cp1251", "email;имя\na@example.test;Анна\n".encode("cp1251")),
        ({"Content-Type": "text/csv; charset=windows-1251"}, "", "email;имя\na@example.test;Анна\n".encode("cp1251")),
        (CSV, "?email_column=Почта", "Почта;имя\na@example.test;Анна\n".encode()),
        (CSV, "?columns=Почта:email,Name:имя", "Почта;Name\na@example.test;Анна\n".encode()),
        (CSV, "?columns=Почта:email&columns=Name:имя", "Почта;Name\na@example.test;Анна\n".encode()),
    ],
    ids=range(12),
)
async def test_one_list_in_every_packing_encoding_and_naming(
    api: ApiRig, media: dict[str, str], query: str, document: bytes
) -> None:
    campaign = await api.create()
    path = f"/v1/campaigns/{campaign}/recipients{query}"
    report = await api.request("POST", path, 201, content=document, headers=media)
    assert report["accepted"] == 1
    [row] = (await api.get(f"/v1/campaigns/{campaign}/recipients"))["data"]
    assert (row["email"], row["data"]) == ("a@example.test", {"имя": "Анна"})


async def test_a_column_declared_boolean_holds_true_and_false(api: ApiRig) -> None:
    campaign = await api.create()
    document = "email,vip\na@example.test,yes\nb@example.test,No\nc@example.test,maybe\n"
    path = f"/v1/campaigns/{campaign}/recipients?types=vip:boolean"
    report = await api.request("POST", path, 201, content=document, headers=CSV)
    assert [problem["line"] for problem in report["problems"]] == [4]
    rows = (await api.get(f"/v1/campaigns/{campaign}/recipients"))["data"]
    assert [row["data"] for row in rows] == [{"vip": True}, {"vip": False}]


@pytest.mark.parametrize(
    ("media", "query", "document", "words"),
    [
        (CSV, "?charset=klingon", b"email\n", "query charset"),
        (CSV, "?columns=Name", b"email\n", "query columns"),
        (CSV, "?types=vip:date", b"email\n", "query types"),
        (CSV, "?email_column=", b"email\n", "query email_column"),
        (CSV, "?format=xml", b"email\n", "query format"),
        ({"Content-Type": "application/zip"}, "", zipped("export", "email\n"), "query format"),
        (CSV, "", zipped("a.csv", "email\n")[:20], "middle of a zip"),
        (CSV, "", b"\xd0\xcf\x11\xe0" + b"\0" * 60, "Excel 97"),
        (CSV, "", gzipped(b"\n" * 60_000_000), "times its size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_read_is_refused_in_words(
    api: ApiRig, media: dict[str, str], query: str, document: bytes, words: str
) -> None:
    campaign = await api.create()
    path = f"/v1/campaigns/{campaign}/recipients{query}"
    problem = await api.request("POST", path, 422, content=document, headers=media)
    assert words in problem["detail"]
    assert await stored(api) == 0


@pytest.mark.parametrize(
    ("media", "document", "line"),
    [
        (CSV, "email,x\n" + "".join(f"p{n}@example.test,1\n" for n in range(20)) + "q@example.test,1,2\n", 22),
        (NDJSON, people(0, 20) + '{"email": \n', 21),
        (NDJSON, people(0, 20) + "[]\n", 21),
        (JSON, '[{"email": "a@example.test"},\n{]', 2),
        (NDJSON, "\n\n", 1),
    ],
)
async def test_a_broken_file_is_refused_whole(api: ApiRig, media: dict[str, str], document: str, line: int) -> None:
    campaign = await api.create(1)
    problem = await api.load(campaign, document, media, 422)
    assert problem["line"] == line
    assert f"ine {line}" in problem["detail"]
    assert await stored(api) == (await api.show(campaign))["counts"]["total"] == 1
    shown = await api.get(f"/v1/campaigns/{campaign}/imports/{problem['import_id']}")
    assert (shown["state"], shown["accepted"], shown["error"]) == ("failed", 0, problem["detail"])
    assert (await api.kinds(campaign))[-1] == "import-failed"
    assert api.value("imports_undone_total", outcome="failed") == 1
    await api.load(campaign, people(0, 3), NDJSON)


async def test_a_file_without_a_field_of_the_message_is_refused(api: ApiRig) -> None:
    campaign = await api.create(subject="Hello {{ first_name }}")
    problem = await api.load(campaign, "email,firstname\na@example.test,Ann\n", CSV, 422)
    assert (problem["field"], problem["type"]) == ("first_name", "urn:vashsender:problem:unknown-field")
    assert "firstname" in problem["detail"]
    assert await stored(api) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {**CSV, "Content-Encoding": "br"},
    ],
)
async def test_other_kinds_of_files_are_not_understood(api: ApiRig, headers: dict[str, str]) -> None:
    assert "text/csv" in (await api.load(await api.create(), b"email\n", headers, 415))["detail"]


async def test_a_file_beyond_the_limit_is_refused_before_and_while_it_arrives(database_url: str) -> None:
    async with api_on(database_url, max_import_bytes=1000, max_content_bytes=500, import_chunk_rows=4) as api:
        campaign = await api.create()
        problem = await api.load(campaign, people(0, 100), NDJSON, 413)
        assert problem["limit_bytes"] == 1000
        upload = Upload()
        for first in range(0, 100, 10):
            upload._pieces.put_nowait(people(first, 10).encode())
        upload.end()
        answer = await api.client.post(f"/v1/campaigns/{campaign}/recipients", content=upload, headers=NDJSON)
        assert answer.status_code == 413
        assert "NDJSON" in (await api.load(campaign, json.dumps(["x" * 600]), JSON, 413))["detail"]
        assert await stored(api) == 0


@pytest.mark.usefixtures("at_once")
async def test_rows_count_only_when_all_have_arrived_and_nothing_starts_before(api: ApiRig) -> None:
    campaign = await api.create(["first@example.test"])
    upload = Upload()
    request, import_id = await begin(api, campaign, upload)
    await eventually_stored(api, 7)
    assert (await api.show(campaign))["counts"]["total"] == 1
    assert await api.emails(campaign) == await api.emails(campaign, status="pending") == ["first@example.test"]
    path = f"/v1/campaigns/{campaign}"
    for method, action, body in (("POST", "/send", {}), ("DELETE", "", None), ("PATCH", "", {"subject": "x"})):
        problem = await api.request(method, path + action, 409, json=body)
        assert problem["import_id"] == import_id
    assert (await api.load(campaign, people(0, 1), NDJSON, 409))["import_id"] == import_id
    upload.end()
    assert (await request).json()["accepted"] == 6
    assert (await api.post(f"{path}/send"))["counts"]["total"] == 7


@pytest.mark.usefixtures("at_once")
async def test_a_cancelled_import_leaves_nothing(api: ApiRig) -> None:
    campaign = await api.create(1)
    upload = Upload()
    request, import_id = await begin(api, campaign, upload)
    await eventually_stored(api, 7)
    path = f"/v1/campaigns/{campaign}/imports/{import_id}/cancel"
    assert (await api.post(path, expect=200))["state"] == "cancelled"
    assert await stored(api) == 1
    upload._pieces.put_nowait(people(6, 6).encode())
    upload.end()
    answer = await request
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:vashsender:problem:import-ended")
    assert await stored(api) == 1
    await api.post(path, expect=409)
    await api.post(f"/v1/campaigns/{campaign}/imports/999/cancel", expect=404)
    assert (await api.kinds(campaign))[-1] == "import-cancelled"
    await api.post(f"/v1/campaigns/{campaign}/send")


@pytest.mark.usefixtures("at_once")
async def test_an_import_that_is_given_up_releases_its_key_at_once(api: ApiRig) -> None:
    """Even while the request that holds the key has not noticed."""
    campaign = await api.create()
    upload = Upload()
    request, import_id = await begin(api, campaign, upload, **{"Idempotency-Key": "again"})
    await api.post(f"/v1/campaigns/{campaign}/imports/{import_id}/cancel", expect=200)
    again = await api.load(campaign, people(0, 3), {**NDJSON, "Idempotency-Key": "again"})
    assert again["accepted"] == 3
    upload.end()
    assert (await request).status_code == 409
    assert (await api.show(campaign))["counts"]["total"] == 3


@pytest.mark.usefixtures("at_once")
async def test_an_upload_that_stands_still_leaves_nothing(database_url: str) -> None:
    async with api_on(database_url, import_timeout_seconds=0.3, import_chunk_rows=4) as api:
        campaign = await api.create()
        request, import_id = await begin(api, campaign, Upload())
        assert (await request).status_code == 408
        assert await stored(api) == 0
        assert (await api.get(f"/v1/campaigns/{campaign}/imports/{import_id}"))["state"] == "failed"


async def test_the_clock_ends_an_import_whose_process_died(api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.usecases.import_rows.UNDO_CHUNK_ROWS", 3)
    campaign = await api.create(2)
    async with api.ledger.write() as connection:
        dead = (
            await connection.execute(
                insert(Import)
                .values(
                    campaign_id=UUID(campaign),
                    format="csv",
                    state="open",
                    created_at=0.0,
                    updated_at=db_now() - 901,
                    first_id=3,
                )
                .returning(col(Import.id))
            )
        ).scalar_one()
        rows = [{"email": f"d{n}@example.test", "email_key": f"d{n}@example.test"} for n in range(7)]
        await connection.execute(insert(Recipient).values(campaign_id=UUID(campaign), import_id=dead), rows)
    housekeeping = Housekeeping(api.api, "api-test")
    await asyncio.gather(housekeeping.tick(), housekeeping.tick())
    assert await stored(api) == 2
    shown = await api.get(f"/v1/campaigns/{campaign}/imports/{dead}")
    assert (shown["state"], shown["error"]) == ("failed", "Nothing arrived for 900 s.")
    assert api.value("imports_undone_total", outcome="timed_out") == 1
    await api.post(f"/v1/campaigns/{campaign}/send")


@pytest.mark.usefixtures("at_once")
async def test_an_import_belongs_to_its_process_until_its_lease_runs_out(api: ApiRig) -> None:
    """The process that receives it renews its lease, however slowly rows arrive. When the lease has run out, another
    process removes the rows and releases the Idempotency-Key."""
    campaign = await api.create(1)
    upload = Upload()
    request, import_id = await begin(api, campaign, upload, **{"Idempotency-Key": "again"})
    await eventually_stored(api, 7)
    another = Housekeeping(replace(api.api), "api-2")

    async def without_a_renewal() -> None:
        async with api.ledger.write() as connection:
            await connection.execute(update(Import).values(lease_until=col(Import.lease_until) - 20))

    await without_a_renewal()
    await Housekeeping(api.api, "api-1").tick()
    await another.tick()
    assert await stored(api) == 7
    await api.post(f"/v1/campaigns/{campaign}/send", expect=409)

    await without_a_renewal()
    await another.tick()
    shown = await api.get(f"/v1/campaigns/{campaign}/imports/{import_id}")
    assert (shown["state"], shown["error"]) == ("failed", "The server died while it arrived; repeat it.")
    assert await stored(api) == 1
    again = await api.load(campaign, people(0, 3), {**NDJSON, "Idempotency-Key": "again"})
    assert again["accepted"] == 3
    upload.end()
    assert (await request).status_code == 409, "the process lived after all, and finds that it has lost"
    await api.post(f"/v1/campaigns/{campaign}/send")


async def test_a_stop_gives_up_every_import_while_some_end_by_themselves(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = [Upload(), Upload(), Upload()]
    begun = [await begin(api, await api.create(), upload) for upload in uploads]
    give_up = import_rows.give_up

    async def ends_meanwhile(connection: AsyncConnection, import_id: int, error: str | None) -> bool:
        api.api.imports.arriving.discard(import_id)
        return await give_up(connection, import_id, error)

    monkeypatch.setattr(import_rows, "give_up", ends_meanwhile)
    await Housekeeping(api.api, "api-test").farewell()
    monkeypatch.undo()
    async with api.ledger.read() as connection:
        ended = (await connection.execute(select(col(Import.id), col(Import.state)).order_by(col(Import.id)))).all()
    assert [tuple(row) for row in ended] == [(import_id, "undoing") for _, import_id in begun]
    for upload in uploads:
        upload.end()
    for request, _ in begun:
        assert (await request).status_code == 409


async def test_the_clock_continues_to_undo_where_that_was_interrupted(api: ApiRig) -> None:
    campaign = await api.create(2)
    [done] = (await api.get(f"/v1/campaigns/{campaign}/imports"))["data"]
    async with api.ledger.write() as connection:
        await connection.execute(
            update(Import)
            .where(col(Import.id) == done["id"])
            .values(state="undoing", error="It broke.", updated_at=db_now() - 4, first_id=1)
        )
    await Housekeeping(api.api, "api-test").tick()
    assert await stored(api) == 0


async def test_other_requests_are_answered_while_a_large_list_arrives(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing happens beside the event loop. bench/import_.py measures how fast they are."""
    parsed_in = []
    feed = NdjsonParser.feed

    def watched(self: NdjsonParser, piece: bytes) -> Parsed:
        parsed_in.append(threading.current_thread())
        return feed(self, piece)

    monkeypatch.setattr(NdjsonParser, "feed", watched)
    async with api_on(database_url) as api:
        campaign = await api.create()
        upload = asyncio.create_task(api.load(campaign, people(0, 40_000), NDJSON))
        answered = 0
        while not upload.done():
            await api.get("/v1/campaigns")
            answered += 1
        assert (await upload)["accepted"] == 40_000
    assert answered > 5
    assert parsed_in
    assert threading.main_thread() not in parsed_in


async def test_import_and_send_at_the_same_time(api: ApiRig) -> None:
    """The first to lock the campaign wins. Either way every stored row counts, and no other does."""
    for _ in range(8):
        campaign = await api.create(1)
        path = f"/v1/campaigns/{campaign}"
        upload = api.client.post(f"{path}/recipients", content=people(0, 9), headers=NDJSON)
        send = api.client.post(f"{path}/send", json={})
        imported, sent = await asyncio.gather(upload, send)
        assert {imported.status_code, sent.status_code} <= {201, 202, 409}
        assert 409 in (imported.status_code, sent.status_code) or sent.json()["counts"]["total"] == 10
        total = 1 + 9 * (imported.status_code == 201)
        assert (await api.show(campaign))["counts"]["total"] == total
    await assert_sound(api.ledger)


async def test_problems_are_bounded_and_counts_exact(api: ApiRig) -> None:
    report = await api.load(
        await api.create(), people(0, 10) + ndjson({"email": f"bad {n}"} for n in range(1500)), NDJSON
    )
    assert (report["accepted"], report["invalid"], len(report["problems"])) == (10, 1500, 1000)


async def test_the_database_goes_away_in_the_middle(own_postgres: PrivatePostgres, at_once: None) -> None:
    url = own_postgres.create_database("ledger")
    await asyncio.to_thread(migrate.upgrade, url)
    async with api_on(url, import_chunk_rows=4) as api:
        campaign = await api.create(1)
        upload = Upload()
        request, import_id = await begin(api, campaign, upload, **{"Idempotency-Key": "again"})
        await eventually_stored(api, 7)
        await asyncio.to_thread(own_postgres.stop)
        upload._pieces.put_nowait(people(6, 6).encode())
        upload.end()
        answer = await request
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        await api.get(f"/v1/campaigns/{campaign}", 503)
        await asyncio.to_thread(own_postgres.start)
        await asyncio.to_thread(own_postgres.wait_ready)
        await Housekeeping(api.api, "api-test").tick()
        assert await stored(api) == 1
        assert (await api.get(f"/v1/campaigns/{campaign}/imports/{import_id}"))["state"] == "failed"
