"""Plays the old operators' guide from its first section to its last on one running system, using only the command.

At the end ledger and relay are compared: everyone got every campaign once."""

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.client import ApiClient
from cli.local.ports import free_port, is_free
from tests.support.command import Command
from tests.support.relay import RecordingRelay
from tests.support.running import listening_addresses
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.more, pytest.mark.timeout(900)]

BATCH = 50
MINUTES = "0.05"  # a campaign without progress for 3 s counts as hanging
SETTINGS = {
    "BATCH_SIZE": str(BATCH),
    "SMTP_CONNECTIONS": "4",
    "HEARTBEAT_SECONDS": "1",
    "LEASE_SECONDS": "4",
    "RENEW_SECONDS": "1",
    "RELAY_REST_SECONDS": "0.5",
    "RELAY_REST_MAX_SECONDS": "1",
}
SUPERVISED = {"api", "broker", "dispatcher", "sender-1", "sender-2", "watchdog", "webhooks"}


def test_the_guide_from_its_first_to_its_last_section(tmp_path: Path) -> None:
    with ExitStack() as stack:
        relay = RecordingRelay()
        relay.start()
        stack.callback(relay.stop)
        command = Command(tmp_path, {f"VASHSENDER_{name}": value for name, value in SETTINGS.items()})
        command.settings["VASHSENDER_RELAYS"] = relay.url
        stack.callback(command, "stop")
        guide = Guide(command, relay)
        guide.start_and_status()
        with guide.monitor_and_logs():
            guide.by_hand()
            guide.emails_are_not_sent_and_a_campaign_hangs()
            guide.tasks_queues_and_load()
            guide.update()
        guide.timeouts_profiles_and_wrong_settings()
        guide.log_files_and_security()
        guide.stop()


class Guide:
    """One method per chapter, in order. Each leaves the system running."""

    def __init__(self, command: Command, relay: RecordingRelay) -> None:
        self.command = command
        self.relay = relay
        self.campaigns: dict[str, set[str]] = {}

    def start_and_status(self) -> None:
        command = self.command
        command.ok("start", "--senders", "2", seconds=400)
        rows = command.json("status")
        assert {row["name"] for row in rows} == SUPERVISED
        for row in rows:
            assert (row["state"], row["restarts"]) == ("running", 0), row
            assert row["uptime_seconds"] > 0
            assert row["memory_bytes"] > 10e6
            assert row["cpu_percent"] >= 0
        before = command.pids()
        again = command("start", "--senders", "2")  # running processes are left alone
        assert again.returncode == 0, again.stderr
        assert "already running: api, dispatcher, watchdog, webhooks, sender-1, sender-2" in again.stderr
        assert command.pids() == before
        wait_for(lambda: command("health-check").returncode == 0, every=1)

    @contextmanager
    def monitor_and_logs(self) -> Iterator[None]:
        """`monitor` and `logs -f` run during the other chapters. Ctrl-C ends only them."""
        with ExitStack() as stack:
            monitor = stack.enter_context(self._background("monitor", "monitor"))
            logs = stack.enter_context(self._background("logs", "logs", "-f", "-n", "0"))
            wait_for(lambda: "watchdog: running" in monitor.said())
            self._monitor_says = monitor.said
            yield
            said = logs.said()
            for campaign in self.campaigns:
                assert {json.loads(line)["service"] for line in said.splitlines() if campaign in line} >= {
                    "api",
                    "dispatcher",
                    "sender",
                }
            assert '"service": "sender"' in said
            third = re.search(r"sender-3: running, pid (\d+)", monitor.said())  # started by a chapter in between
            assert third is not None
            assert f'-{third[1]}"' in said  # `logs -f` also follows processes that start later
            assert "sender-3: removed" in monitor.said()
            for one in (monitor, logs):
                one.process.send_signal(signal.SIGINT)
                assert one.process.wait(30) == 0

    def by_hand(self) -> None:
        with self._hand("--connections", "2", "--batches-in-hand", "1", "--log-format", "text") as by_hand:
            wait_for(lambda: [row["slots"] for row in self._senders() if row["pid"] == by_hand.process.pid] == [1])
            assert "service.started" in by_hand.said()
            assert '"event"' not in by_hand.said()  # readable, as requested
            by_hand.process.send_signal(signal.SIGINT)
            assert by_hand.process.wait(60) == 0

    def emails_are_not_sent_and_a_campaign_hangs(self) -> None:
        """The relay is down, a sender dies while it holds a batch, and the watchdog is frozen: `--fix` repairs it."""
        watchdog = psutil.Process(self.command.pids()["watchdog"])
        try:
            self._a_campaign_hangs(watchdog)
        finally:
            watchdog.resume()

    def _a_campaign_hangs(self, watchdog: psutil.Process) -> None:
        command = self.command
        with self._hand("--batches-in-hand", "1") as by_hand:
            wait_for(lambda: any(row["pid"] == by_hand.process.pid for row in self._senders()))
            watchdog.suspend()
            with self._relay_away():
                campaign = self._send("hangs", 10 * BATCH)
                wait_for(lambda: self._holds_a_batch(by_hand.process.pid))
                [hanging] = wait_for(lambda: self._hanging(campaign), every=1)
                assert "Connection refused" in hanging["reason"]
                examined = command("doctor", "--json")
                assert examined.returncode == 1
                wrong = [row["name"] for row in json.loads(examined.stdout) if not row["ok"]]
                assert wrong == [f"relay 127.0.0.1:{self.relay.port}"]
                assert "Connection refused" in command.ok("logs", "sender", "-n", "200")
                by_hand.process.kill()  # nothing it held is ambiguous, as it never reached the relay
                by_hand.process.wait()

        wait_for(lambda: self._counts(campaign)["sent"] == 9 * BATCH)
        wait_for(lambda: "sender that is gone" in "".join(row["reason"] for row in self._hanging(campaign)), every=1)
        shown = command("health-check", "--timeout", MINUTES)
        assert shown.returncode == 1
        assert campaign in shown.stdout
        assert "1 batches are held by a sender that is gone\trescue them" in shown.stdout
        counts = self._counts(campaign)
        assert (counts["pending"], counts["sent"]) == (BATCH, 9 * BATCH)
        fixed = command("health-check", "--fix", "--timeout", MINUTES, "--json")
        found = json.loads(fixed.stdout)
        assert [row["campaign_id"] for row in found["hung"]] == [campaign]
        assert [(fix["kind"], fix["campaign_id"]) for fix in found["fixed"]] == [("rescue", campaign)]
        self._finished(campaign)
        assert command.json("campaign", "show", campaign)["blocked_by"] is None
        watchdog.resume()
        wait_for(lambda: command("health-check", "--timeout", MINUTES).returncode == 0, every=1)
        story = [json.loads(line) for line in command.ok("logs", "--campaign", campaign, "-n", "1000").splitlines()]
        assert {line["service"] for line in story} >= {"api", "dispatcher", "sender"}
        assert [line["timestamp"] for line in story] == sorted(line["timestamp"] for line in story)

    def tasks_queues_and_load(self) -> None:
        """Inspects, purges and scales while a campaign runs, and kills a service."""
        command = self.command
        self.relay.behaviour.seconds_per_email = 0.1
        campaign = self._send("is looked at", 30 * BATCH)
        wait_for(lambda: self._counts(campaign)["sent"])
        active = command.json("inspect", "active")
        assert {row["campaign_id"] for row in active} == {campaign}
        assert all(row["owner"].startswith("sender-") and row["claimed_at"] for row in active)
        stats = command.json("inspect", "stats")
        assert [row["id"] for row in stats["campaigns"]] == [campaign]
        assert (stats["totals"]["total"], stats["totals"]["sent"] > 0) == (30 * BATCH, True)
        assert stats["campaigns"][0]["rates"]["average_per_second"] > 0
        table = command.ok("inspect", "stats").splitlines()
        assert [line.split("\t")[0] for line in table[:3]] == ["Campaign", campaign, "all"]
        queues = {row["name"]: row["consumers"] for row in command.json("inspect", "queues")}
        assert queues == {"campaigns": 1, "email": 2, "default": 1, "heartbeats": 1, "dead": 0}

        status, said = command.on_terminal("purge", "email", typed="y\n")
        assert status == 0, said
        assert "messages of email? No email is lost. [y/N]" in said
        assert "dropped" in said

        before = command.pids()
        command.ok("scale", "sender=3")
        wait_for(lambda: "sender-3: running" in self._monitor_says())
        os.kill(before["dispatcher"], signal.SIGKILL)
        command.ok("scale", "sender=1")
        now = wait_for(lambda: pids if (pids := command.pids())["dispatcher"] not in (0, before["dispatcher"]) else {})
        assert (now["sender-1"], set(now)) == (before["sender-1"], SUPERVISED - {"sender-2"})
        assert [row["restarts"] for row in command.json("status") if row["name"] == "dispatcher"] == [1]
        self.relay.behaviour.seconds_per_email = 0.0
        self._finished(campaign)

    def update(self) -> None:
        """Replaces one process after the other while a campaign runs."""
        command = self.command
        self.relay.behaviour.seconds_per_email = 0.05
        campaign = self._send("is updated under", 20 * BATCH)
        wait_for(lambda: self._counts(campaign)["sent"])
        before = command.pids()
        command.ok("restart")
        after = command.pids()
        assert {name for name in before if before[name] == after[name]} == {"broker"}
        assert after.keys() == before.keys()
        assert {row["state"] for row in command.json("status")} == {"running"}
        self.relay.behaviour.seconds_per_email = 0.0
        self._finished(campaign)

    def timeouts_profiles_and_wrong_settings(self) -> None:
        command = self.command

        def shown(**settings: str) -> dict[str, Any]:
            given = {f"VASHSENDER_{name}": value for name, value in settings.items()}
            done = command("config", "show", "--json", settings=given)
            found: dict[str, dict[str, Any]] = json.loads(done.stdout)
            return {name.removeprefix("VASHSENDER_").lower(): value["value"] for name, value in found.items()}

        low = shown(PROFILE="low")
        limits = ("turn_soft", "turn_hard", "batch_soft", "batch_hard", "email_soft", "email_hard")
        assert [low[f"{name}_seconds"] / 60 for name in limits] == [25, 30, 8, 10, 4, 5]
        assert (low["sweep_seconds"] / 60, low["smtp_cleanup_seconds"] / 60) == (5, 10)
        assert low["smtp_connections"] == 4  # from the environment, which overrides any profile
        del command.settings["VASHSENDER_SMTP_CONNECTIONS"]
        medium, high = shown(BATCH_HARD_SECONDS="900", BATCH_SOFT_SECONDS="720"), shown(PROFILE="high")
        assert (medium["batch_soft_seconds"], medium["batch_hard_seconds"]) == (720, 900)
        names = ("smtp_connections", "recycle_after_batches", "batches_in_hand")
        assert [medium[name] for name in names] == [8, 500, 2]
        assert [high[name] for name in names] == [16, 250, 2]

        pids = command.pids()
        for verb in ("start", "restart"):
            wrong = command(verb, settings={"VASHSENDER_EMAIL_SOFT_SECONDS": "301"})
            assert wrong.returncode == 78
            assert wrong.stderr == "vashsender: email_soft_seconds (301) exceeds email_hard_seconds (300)\n"
        assert command.pids() == pids

    def log_files_and_security(self) -> None:
        command = self.command
        logs = command.var / "log"
        assert {path.name for path in logs.iterdir()} == {
            *(f"{name}.log" for name in SUPERVISED | {"sender-3", "control", "supervisord"})
        }
        open_to_others = [str(path) for path in (command.var, *command.var.rglob("*")) if path.lstat().st_mode & 0o077]
        assert open_to_others == []
        assert stat.S_IMODE(logs.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in logs.iterdir()} == {0o600}
        assert {stat.S_IMODE(path.stat().st_mode) for path in (command.var / "run").glob("*.pid")} == {0o600}
        programs = [psutil.Process(pid) for pid in command.pids().values()]
        children = [child for program in programs for child in program.children(recursive=True)]
        addresses = listening_addresses([*programs, *children])
        assert addresses
        assert addresses <= {"127.0.0.1", "::1"}

    def stop(self) -> None:
        command = self.command
        for campaign, people in self.campaigns.items():
            rows = command.json("campaign", "recipients", campaign)
            assert {row["email"]: row["status"] for row in rows} == dict.fromkeys(people, "sent")
        command.ok("stop")
        assert command.processes() == []
        assert all(is_free(int(port)) for name, port in command.settings.items() if name.endswith("_PORT"))
        everyone = {email for people in self.campaigns.values() for email in people}
        assert self.relay.copies.keys() == everyone
        assert self.relay.duplicates == 0

        noted = [json.loads(line) for line in (command.var / "log" / "control.log").read_text().splitlines()]
        assert [entry["action"] for entry in noted] == [
            "start",
            "start",
            "health-check --fix",
            "purge email",
            "scale sender=3",
            "scale sender=1",
            "restart",
            "stop",
        ]
        results = {entry["action"]: entry["result"] for entry in noted}
        assert results["scale sender=3"] == "started: sender-3; stopped: none"
        assert "was taken back" in results["health-check --fix"]
        assert results["purge email"].startswith("dropped ")
        assert all(entry["instance"] and entry["timestamp"] and entry["seconds"] >= 0 for entry in noted)

    # Helpers

    @contextmanager
    def _relay_away(self) -> Iterator[None]:
        self.relay.stop()
        try:
            yield
        finally:
            self.relay.start()

    def _send(self, name: str, people: int) -> str:
        emails = [f"{name.replace(' ', '-')}-{number}@example.com" for number in range(people)]
        folder = self.command.folder
        (folder / "people.csv").write_text("\n".join(["email", *emails]) + "\n")
        draft = {"name": name, "from": {"email": "a@example.com"}, "subject": "Hi", "text": "Dear reader!"}
        (folder / "campaign.json").write_text(json.dumps({**draft, "recipients_file": "people.csv"}))
        campaign = self.command.ok("campaign", "create", str(folder), "--send").strip()
        self.campaigns[campaign] = set(emails)
        return campaign

    def _finished(self, campaign: str) -> None:
        last = self.command.json("campaign", "watch", campaign, "--timeout", "170")
        assert (last["status"], last["counts"]["sent"]) == ("finished", len(self.campaigns[campaign])), last

    def _senders(self) -> list[dict[str, Any]]:
        with self._api() as api:
            services = api.get("/v1/services")["data"]
        return [row for row in services if row["service"] == "sender" and row["alive"]]

    def _api(self) -> ApiClient:
        """For frequent polling, cheaper than running a command."""
        key = (self.command.var / "secrets" / "api_key").read_text().strip()
        return ApiClient(f"http://127.0.0.1:{self.command.port('api')}", key)

    def _holds_a_batch(self, pid: int) -> bool:
        with self._api() as api:
            return any(row["owner"].endswith(f"-{pid}") for row in api.pages("/v1/batches", state="sending"))

    def _counts(self, campaign: str) -> dict[str, int]:
        with self._api() as api:
            counts: dict[str, int] = api.get(f"/v1/campaigns/{campaign}")["counts"]
        return counts

    def _hanging(self, campaign: str) -> list[dict[str, Any]]:
        done = self.command("health-check", "--timeout", MINUTES, "--json")
        return [row for row in json.loads(done.stdout)["hanging"] if row["campaign_id"] == campaign]

    @contextmanager
    def _hand(self, *options: str) -> "Iterator[Background]":
        with self._background("hand", "run", "sender", "--port", str(free_port()), *options) as by_hand:
            yield by_hand

    @contextmanager
    def _background(self, name: str, *arguments: str) -> "Iterator[Background]":
        output = self.command.folder / f"{name}.out"
        with output.open("w") as file:
            process = subprocess.Popen(
                self.command.line(*arguments),
                env=self.command.environment(),
                cwd=self.command.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            yield Background(process, output)
        finally:
            process.kill()
            process.wait()


class Background:
    """A command that runs in the background of the test."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def said(self) -> str:
        return self._output.read_text()
