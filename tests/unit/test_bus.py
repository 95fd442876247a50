"""What a service says of the broker while it has nothing to publish."""

import time
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest

from shared.bus import TROUBLE_SECONDS, Bus
from shared.events import CampaignRequested
from shared.metrics import Metrics


async def test_an_event_lost_long_ago_is_no_trouble_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process that lost one before it was connected, and has no other to publish, would never be ready."""
    bus = Bus("amqp://localhost/", Metrics("test"), name="test")
    monkeypatch.setattr(bus._publisher, "publish", AsyncMock(side_effect=ConnectionError("away")))
    monkeypatch.setattr(bus._publisher, "ping", AsyncMock(return_value=True))
    assert not await bus.publish(CampaignRequested(campaign_id=uuid4()))
    bus.connected.set()
    assert await bus.check(1) == "the broker did not confirm the last event"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + TROUBLE_SECONDS + 1)
    assert await bus.check(1) == ""
