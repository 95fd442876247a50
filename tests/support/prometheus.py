"""A real Prometheus with the configuration of deploy/prometheus, on a free port."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cli.local.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
START_SECONDS = 30.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus, used through its HTTP API."""

    http: httpx.Client

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query: series with `metric` and `value`."""
        found: list[dict[str, Any]] = self._get("/api/v1/query", {"query": expr})["result"]
        return found

    def query_at(self, expr: str, seconds: float) -> list[dict[str, Any]]:
        """The result of an instant query at a moment (Unix time)."""
        found: list[dict[str, Any]] = self._get("/api/v1/query", {"query": expr, "time": str(seconds)})["result"]
        return found

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The result of a range query between two moments (Unix time): series with `metric` and `values`."""
        params = {"query": expr, "start": str(start), "end": str(end), "step": str(step)}
        found: list[dict[str, Any]] = self._get("/api/v1/query_range", params)["result"]
        return found

    def value(self, expr: str) -> float | None:
        """The value of a query with one series. None if there is no series, or more than one."""
        found = self.query(expr)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def label_values(self, label: str, selector: str) -> list[str]:
        found: list[str] = self._get(f"/api/v1/label/{label}/values", {"match[]": selector})
        return found

    def wait(self, expr: str, seconds: float = 60.0) -> None:
        """Returns as soon as the query has a result."""
        deadline = time.monotonic() + seconds
        while not self.query(expr):
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {seconds:g} s: {expr}")
            time.sleep(POLL_SECONDS)

    def _get(self, path: str, params: Mapping[str, str]) -> Any:
        answer = self.http.get(path, params=dict(params))
        assert answer.is_success, f"{params}: {answer.text}"
        return answer.json()["data"]


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, Mapping[str, str]], vhost: str, labels: Mapping[str, str] | None = None
) -> Iterator[Prometheus]:
    """Scrapes `targets` every second: addresses by instance, by file_sd file (`vashsender`, `rabbitmq`). All get
    `labels`, too."""
    folder.mkdir()
    for name, instances in targets.items():
        write_targets(folder / f"{name}.json", instances, labels)
    (folder / "prometheus.yml").write_text(configuration(folder, vhost))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            _wait_ready(http, process, folder)
            yield Prometheus(http)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_targets(path: Path, instances: Mapping[str, str], labels: Mapping[str, str] | None = None) -> None:
    """What is scraped from now on: a running Prometheus watches the file."""
    entries = [
        {"targets": [address], "labels": {"instance": one, **(labels or {})}} for one, address in instances.items()
    ]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(entries))
    draft.replace(path)


def configuration(folder: Path, vhost: str) -> str:
    """The deployed configuration, with other paths and a scrape interval of 1 s."""
    text = (DEPLOY / "prometheus.yml").read_text()
    for old, new in (
        ("15s", "1s"),
        ("../../var/prometheus", str(folder)),
        ("- rules.yml", f"- {DEPLOY}/rules.yml"),
        ("- alerts/", f"- {DEPLOY}/alerts/"),
        ("vhost: [vashsender]", f"vhost: [{vhost}]"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


def _wait_ready(http: httpx.Client, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if http.get("/-/ready").is_success:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"Prometheus did not start: {(folder / 'prometheus.log').read_text()}")
        time.sleep(POLL_SECONDS)
