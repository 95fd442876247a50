"""The demo: sends a campaign from HTTP to mailbox on this machine, and counts it from both sides."""

import asyncio
import csv
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cli import access
from cli.account import copies, settle
from cli.campaign_files import create_campaign, import_recipients, read_campaign
from cli.client import ApiClient
from cli.local import LocalError
from cli.local.control import control
from cli.local.installation import Installation
from cli.local.readiness import relative
from cli.mailbox.maildir import Maildir
from cli.output import say, show_text, step
from cli.settings import LocalSettings
from cli.watching import Look, detached, follow, looks
from shared.errors import DataError
from shared.relays.url import mailbox_url

SENDERS = 2
KILL_AT_SHARE = 0.4
CLOCK_SLACK_SECONDS = 2.0
INCOMPLETE = 1


def demonstrate(config: LocalSettings, folder: Path, *, kill_a_sender: bool, timeout_seconds: float) -> int:
    """Runs the demo. Returns the exit code: 0 if every recipient is accounted for exactly once."""
    began = time.monotonic()
    installation = Installation(config)
    say("Starting VashSender on this machine")
    with control(config, "demo"):
        _start(installation)
    with ApiClient(config.api_url, (config.secrets_dir / "api_key").read_text().strip()) as api:
        say(f"Watch it in a browser, signed in: {_page_link(config)}")
        say("Sending the campaign")
        sent_at = time.time()
        campaign_id = _send(api, folder)
        seen = looks(api, campaign_id, timeout_seconds=timeout_seconds)
        try:
            last = follow(_killing(seen, installation) if kill_a_sender else seen)
        except KeyboardInterrupt:
            detached(campaign_id)
            return 0
        ledger = {row["email"]: row["status"] for row in api.pages(f"/v1/campaigns/{campaign_id}/recipients")}
    maildir = Maildir(config.home / "mailbox")
    mailbox, keys = copies(maildir, campaign_id, sent_at - CLOCK_SLACK_SECONDS)
    account = settle(ledger, mailbox)
    _tell(installation, campaign_id, last, max(keys, default=None), time.monotonic() - began)
    if account.astray:
        say(f"{account.astray} emails are in the mailbox although the ledger says they were not sent")
    show_text(account.line())
    # A killed sender may have sent emails without recording them: docs/guarantees.md promises this bound.
    allowed = config.smtp_connections + config.unrecorded_limit if kill_a_sender else 0
    exact = account.lost == 0 and account.astray == 0 and account.duplicated <= allowed
    return 0 if exact else INCOMPLETE


def _start(installation: Installation) -> None:
    config = installation.config
    wanted = {
        "VASHSENDER_ENVIRONMENT": "development",
        "VASHSENDER_RELAYS": mailbox_url(config),
        "VASHSENDER_PUBLIC_URL": config.api_url,
    }
    if installation.is_running and installation.overrides != wanted:
        raise LocalError(
            "VashSender is running here with your relays, and the demo would send to made-up addresses through them. "
            "Stop it first (`vashsender stop`), or give the demo another VASHSENDER_VAR_DIR and other ports."
        )
    installation.start(senders=SENDERS, mailbox=True, overrides=wanted)


def _send(api: ApiClient, folder: Path) -> str:
    files = read_campaign(folder)
    if files.recipients is None:
        raise DataError(f"{folder}: a campaign for the demo needs a recipients_file")
    with step("campaign") as current:
        campaign_id = str(create_campaign(api, files)["id"])
        current.note = f"created {campaign_id}"
    with step("suppressions") as current:
        forgotten = _forget_bounces(api, files.recipients)
        current.note = f"removed {forgotten} addresses that bounced in an earlier demo"
    with step("recipients") as current:
        report = import_recipients(api, campaign_id, files.recipients)
        current.note = f"{report['accepted']} accepted, {report['duplicates']} duplicates, {report['invalid']} invalid"
    api.post(f"/v1/campaigns/{campaign_id}/send")
    return campaign_id


def _page_link(config: LocalSettings) -> str:
    key = (config.secrets_dir / "api_key").read_text().strip()
    return asyncio.run(access.sign_in_link(config, key, config.api_url))


def _forget_bounces(api: ApiClient, recipients: Path) -> int:
    """Removes suppressions of the addresses that the mailbox refused in an earlier demo, and returns how many. They are
    made up, so the demo may send to them again."""
    with recipients.open(newline="", encoding="utf-8") as file:
        emails = {row["email"] for row in csv.DictReader(file)}
    bounced = [row["email"] for row in api.pages("/v1/suppressions", reason="bounced") if row["email"] in emails]
    for email in bounced:
        api.delete("/v1/suppressions", email=email)
    return len(bounced)


def _killing(seen: Iterator[Look], installation: Installation) -> Iterator[Look]:
    """Kills a sender halfway, like a crash."""
    killed = False
    for look in seen:
        if not killed and look.closed >= look.counts["total"] * KILL_AT_SHARE:
            victim = next(state for state in installation.states() if state.name == "sender-1")
            os.kill(victim.pid, signal.SIGKILL)
            killed = True
            say(f"killed {victim.name} (pid {victim.pid}) with {look.closed} of {look.counts['total']} done")
        yield look


def _tell(installation: Installation, campaign_id: str, last: Look, key: str | None, seconds: float) -> None:
    config = installation.config
    page = f"http://{config.local_host}:{config.mailbox_page_port}"
    running = ", ".join(state.name for state in installation.states())
    say(f"\nThe campaign is {last.campaign['status']} ({last.words()}); the whole demo took {seconds:.0f} s.")
    say(f"  Still running  {running}")
    say("                 `make stop` or `vashsender stop` stops everything")
    say(f"  Page           {_page_link(config)}")
    say("                 this link works once, within 15 minutes; later sign in with the key below")
    say(f"  API            {config.api_url}/v1/campaigns/{campaign_id}")
    say(f"  Its key        {relative(config.secrets_dir / 'api_key')}")
    say(f"  Mailbox        {page}/, as a Maildir in {relative(config.home / 'mailbox')}")
    if key is not None:
        say(f"  Read an email  {page}/mail/{key}")
        say(f"                 or: curl {page}/mail/{key}/text")
    say("")
