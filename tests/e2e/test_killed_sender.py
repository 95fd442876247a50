"""kill -9 of one of two senders in the middle of 10,000 recipients: everyone gets the email, and the counts add up."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.account import copies, settle
from cli.client import ApiClient
from cli.mailbox.maildir import Maildir
from tests.support.command import Command
from tests.support.waiting import wait_for

pytestmark = pytest.mark.timeout(300)

RECIPIENTS = 10_000
CONNECTIONS = 8
UNRECORDED = 64
LEASE_SECONDS = 15.0


def test_everyone_gets_the_email_and_duplicates_are_bounded(on_shared_broker: Command, tmp_path: Path) -> None:
    command = on_shared_broker
    command.settings["VASHSENDER_SMTP_CONNECTIONS"] = str(CONNECTIONS)
    command.settings["VASHSENDER_RELAYS"] = f"smtp://127.0.0.1:{command.port('mailbox')}?tls=none&spare_connections=0"
    command.ok("start", "--senders", "2", "--mailbox")
    campaign_id = _a_campaign(command, tmp_path)
    url, key = f"http://127.0.0.1:{command.port('api')}", (command.var / "secrets" / "api_key").read_text().strip()
    seen: dict[int, int] = {}
    with ApiClient(url, key) as api:
        began = time.time()
        api.post(f"/v1/campaigns/{campaign_id}/send")
        victim = command.pids()["sender-1"]
        wait_for(lambda: api.get(f"/v1/campaigns/{campaign_id}")["counts"]["sent"] >= RECIPIENTS * 0.2)
        wait_for(lambda: bool(held := _held_by(api, campaign_id, "sender-1")) and not seen.update(held))
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for(lambda: all(generation > seen.get(id_, 0) for id_, generation in _generations(api, campaign_id)))
        recovery_seconds = time.monotonic() - killed_at

        command.ok("campaign", "watch", campaign_id, "--timeout", "120", seconds=150)
        campaign = api.get(f"/v1/campaigns/{campaign_id}")
        rows = list(api.pages(f"/v1/campaigns/{campaign_id}/recipients"))
    assert command.pids()["sender-1"] != victim
    assert campaign["status"] == "finished"
    assert campaign["counts"]["total"] == RECIPIENTS
    assert sum(count for state, count in campaign["counts"].items() if state != "total") == RECIPIENTS
    assert Counter(row["status"] for row in rows) == {"sent": RECIPIENTS}

    found, _ = copies(Maildir(command.var / "mailbox"), campaign_id, since=began - 1)
    account = settle({row["email"]: row["status"] for row in rows}, found)
    sys.stdout.write(f"{account.line()}; its batches were taken back after {recovery_seconds:.1f} s\n")
    assert (account.sent, account.lost, account.astray) == (RECIPIENTS, 0, 0)
    assert account.duplicated <= CONNECTIONS + UNRECORDED
    assert recovery_seconds <= LEASE_SECONDS * 2, "neither its supervisor nor the watchdog took them back soon"


def _a_campaign(command: Command, folder: Path) -> str:
    (folder / "campaign.json").write_text(
        json.dumps(
            {
                "name": "Ten thousand",
                "from": {"email": "news@example.com"},
                "subject": "News for {{ name }}",
                "text": "Dear {{ name }}, this is the news.\n",
                "html": "<p>Dear {{ name }}, this is the news.</p>",
            }
        )
    )
    recipients = folder / "recipients.ndjson"
    recipients.write_text(
        "".join(
            json.dumps({"email": f"person-{number}@example.com", "data": {"name": f"Person {number}"}}) + "\n"
            for number in range(RECIPIENTS)
        )
    )
    campaign_id = command.ok("campaign", "create", str(folder)).strip()
    assert command.json("campaign", "import", campaign_id, str(recipients))["accepted"] == RECIPIENTS
    return campaign_id


def _held_by(api: ApiClient, campaign_id: str, slot: str) -> dict[int, int]:
    """The batches a sender holds, with their generations."""
    return {
        batch["id"]: batch["generation"]
        for batch in api.pages("/v1/batches", state="sending", campaign_id=campaign_id)
        if batch["owner"].startswith(f"{slot}@")
    }


def _generations(api: ApiClient, campaign_id: str) -> Iterator[tuple[int, int]]:
    for batch in api.pages("/v1/batches", campaign_id=campaign_id):
        yield batch["id"], batch["generation"]
