"""The report of a sweep by hand."""

import json
from uuid import UUID

from services.watchdog.findings import Finding, Kind
from services.watchdog.once import _json, _text
from services.watchdog.watchdog import _event
from shared.events import BatchRequeued, CampaignRequested

CAMPAIGN = UUID(int=7)
RESCUE = Finding(Kind.RESCUE, "lease_expired", CAMPAIGN, "Batch 1 was taken back", 1, 4)
CALL = Finding(Kind.CALL, "not_started", CAMPAIGN, "The dispatcher was called")


def test_a_line_for_each_finding() -> None:
    assert _text([]) == ["The ledger is sound: nothing to repair."]
    assert _text([RESCUE, CALL]) == [
        f"rescue  lease_expired              campaign {CAMPAIGN}  Batch 1 was taken back",
        f"call    not_started                campaign {CAMPAIGN}  The dispatcher was called",
        "2 found",
    ]


def test_as_json_an_object_for_each_finding_and_a_summary() -> None:
    first, second, summary = map(json.loads, _json([RESCUE, CALL]))
    assert first == {
        "kind": "rescue",
        "reason": "lease_expired",
        "campaign_id": str(CAMPAIGN),
        "text": "Batch 1 was taken back",
        "batch_id": 1,
        "generation": 4,
    }
    assert second["batch_id"] is None
    assert summary == {"summary": {"call": 1, "rescue": 1}}


def test_each_finding_is_an_event() -> None:
    assert _event(RESCUE) == BatchRequeued(batch_id=1, campaign_id=CAMPAIGN, generation=4, reason="lease_expired")
    assert _event(CALL) == CampaignRequested(campaign_id=CAMPAIGN)
