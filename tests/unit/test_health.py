"""Metrics are readable whatever is broken behind them."""

import asyncio

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge
from starlette.applications import Starlette

from shared import health
from shared.health import Health


async def test_a_refresh_that_fails_or_hangs_keeps_no_metric_from_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "REFRESH_SECONDS", 0.05)
    registry = CollectorRegistry()
    kept, fresh = Gauge("kept", "", registry=registry), Gauge("fresh", "", registry=registry)
    kept.set(3)

    async def fail() -> None:
        raise ConnectionRefusedError("the database is away")

    async def hang() -> None:
        await asyncio.Event().wait()

    async def fill() -> None:
        fresh.set(7)

    served = Health(registry)
    served.refresh += [fail, hang, fill]
    transport = httpx.ASGITransport(Starlette(routes=served.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert {"kept 3.0", "fresh 7.0"} <= set(answer.text.splitlines())
