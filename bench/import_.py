"""Speed of imports: rows per second over HTTP, by format and ledger, and the latency of other requests meanwhile.

The real API process on a real port; PostgreSQL with fsync on. For comparison: COPY of the same rows into a table
without indexes. Prints a table, writes JSON under var/bench/.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from bench.campaign import folder, ledger_url
from bench.reports import write_report
from bench.tables import show_table
from cli.local.ports import free_port
from shared.ledger import migrate
from tests.support.processes import ServiceProcess
from tests.support.system import new_key

BLOCK_BYTES = 65_536
MEDIA = {"csv": "text/csv", "ndjson": "application/x-ndjson"}


@dataclass(frozen=True)
class Run:
    """One import. The latencies are of GET /v1/campaigns/{id} while it ran; CPU is that of the
    API and of PostgreSQL (0 on SQLite, which works inside the API)."""

    ledger: str
    format: str
    rows: int
    seconds: float
    rows_per_second: float
    api_microseconds_per_row: float
    postgres_microseconds_per_row: float
    other_median_ms: float
    other_p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the median counts")
    options = parser.parse_args()
    files = {name: list(blocks(name, options.rows)) for name in MEDIA}
    runs: list[Run] = []
    ceiling = 0.0
    for ledger in ("postgresql", "sqlite"):
        with folder() as work, ledger_url(ledger, work) as url:
            migrate.upgrade(url)
            runs += asyncio.run(measure(ledger, url, work, files, options))
            if ledger == "postgresql":
                ceiling = asyncio.run(copy_rate(url, options.rows))
    report(Console(), runs, ceiling, options)


def blocks(file_format: str, rows: int) -> Iterator[bytes]:
    """A file of recipients with two merge fields, in blocks."""
    buffer = bytearray(b"email,first_name,city\n" if file_format == "csv" else b"")
    for number in range(rows):
        email, name, city = f"person-{number}@example{number % 500}.test", f"Имя {number}", "Санкт-Петербург"
        if file_format == "csv":
            buffer += f"{email},{name},{city}\n".encode()
        else:
            data = {"first_name": name, "city": city}
            buffer += json.dumps({"email": email, "data": data}, ensure_ascii=False).encode() + b"\n"
        if len(buffer) >= BLOCK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


async def measure(
    ledger: str, url: str, work: Path, files: dict[str, list[bytes]], options: argparse.Namespace
) -> list[Run]:
    process = ServiceProcess(
        "api",
        {
            "VASHSENDER_DATABASE_URL": url,
            "VASHSENDER_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            "VASHSENDER_VAR_DIR": str(work),
        },
        free_port(),
        work,
    )
    process.launch()
    try:
        await process.wait_health("/health/live", 200)
        headers = {"Authorization": f"Bearer {await new_key(url)}"}
        async with httpx.AsyncClient(
            base_url=process.http_url, headers=headers, timeout=600, trust_env=False
        ) as client:
            return [
                await one_import(client, process, work, ledger, name, files[name], options.rows)
                for _ in range(options.runs)
                for name in MEDIA  # interleaved, so that both share the same conditions
            ]
    finally:
        process.kill()


async def one_import(
    client: httpx.AsyncClient,
    process: ServiceProcess,
    work: Path,
    ledger: str,
    name: str,
    file: list[bytes],
    rows: int,
) -> Run:
    body = {"name": "bench", "from": {"email": "news@example.test"}, "subject": "{{ first_name }}", "text": "Hello."}
    campaign = (await client.post("/v1/campaigns", json=body)).raise_for_status().json()["id"]
    path = f"/v1/campaigns/{campaign}"

    async def content() -> AsyncIterator[bytes]:
        for block in file:
            yield block

    used = cpu_seconds(psutil.Process(process.pid)), postgres_seconds(work)
    began = time.perf_counter()
    upload = asyncio.create_task(
        client.post(f"{path}/recipients", content=content(), headers={"Content-Type": MEDIA[name]})
    )
    latencies = [await latency(client, path)]
    while not upload.done():
        latencies.append(await latency(client, path))
        await asyncio.wait([upload], timeout=0.02)
    seconds = time.perf_counter() - began
    spent = cpu_seconds(psutil.Process(process.pid)), postgres_seconds(work)
    assert (await upload).raise_for_status().json()["accepted"] == rows
    return Run(
        ledger=ledger,
        format=name,
        rows=rows,
        seconds=round(seconds, 3),
        rows_per_second=round(rows / seconds),
        api_microseconds_per_row=round((spent[0] - used[0]) / rows * 1e6, 1),
        postgres_microseconds_per_row=round((spent[1] - used[1]) / rows * 1e6, 1),
        other_median_ms=round(statistics.median(latencies) * 1000, 1),
        other_p99_ms=round(sorted(latencies)[int(len(latencies) * 0.99)] * 1000, 1),
    )


def cpu_seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def postgres_seconds(work: Path) -> float:
    """CPU of the private cluster's processes."""
    folder = str(work / "postgres")
    servers = [
        one
        for one in psutil.process_iter(["name", "cmdline"])
        if one.info["name"] == "postgres" and any(word.startswith(folder) for word in one.info["cmdline"] or ())
    ]
    return sum(cpu_seconds(one) for server in servers for one in (server, *server.children(recursive=True)))


async def latency(client: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    (await client.get(path)).raise_for_status()
    return time.perf_counter() - began


async def copy_rate(url: str, rows: int) -> float:
    """Rows per second of COPY into a table without indexes: an upper bound for imports."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        columns = "campaign_id uuid, import_id bigint, email text, key text, data text"
        await connection.execute(f"CREATE TABLE bare ({columns})")
        data = '{"first_name":"Имя 12345","city":"Санкт-Петербург"}'
        records = [(None, 1, f"person-{n}@example.test", f"person-{n}@example.test", data) for n in range(rows)]
        began = time.perf_counter()
        await connection.copy_records_to_table("bare", records=records)
        return rows / (time.perf_counter() - began)
    finally:
        await connection.close()


def report(console: Console, runs: list[Run], ceiling: float, options: argparse.Namespace) -> None:
    table = Table(title=f"Imports of {options.rows} recipients over HTTP, median of {options.runs}")
    for heading in (
        "ledger",
        "format",
        "rows/s",
        "seconds",
        "api us/row",
        "postgres\nus/row",
        "other requests\nmedian ms",
        "p99 ms",
    ):
        table.add_column(heading, justify="right")
    for ledger, name in dict.fromkeys((run.ledger, run.format) for run in runs):
        same = [run for run in runs if (run.ledger, run.format) == (ledger, name)]
        run = sorted(same, key=lambda run: run.seconds)[len(same) // 2]
        table.add_row(
            ledger,
            name,
            str(int(run.rows_per_second)),
            f"{run.seconds:.2f}",
            f"{run.api_microseconds_per_row:.1f}",
            f"{run.postgres_microseconds_per_row:.1f}",
            f"{run.other_median_ms:.1f}",
            f"{run.other_p99_ms:.1f}",
        )
    show_table(table, console)
    console.print(f"COPY alone, into a bare PostgreSQL table: {ceiling:.0f} rows/s")
    path = write_report("import", copy_rows_per_second=round(ceiling), runs=[asdict(run) for run in runs])
    console.print(f"All runs: {path}")


if __name__ == "__main__":
    main()
