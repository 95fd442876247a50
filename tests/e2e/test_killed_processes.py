"""kill -9 of every supervised process, one after the other, and of supervisord, while a campaign runs.

Everything restarts automatically, nothing is duplicated, and everyone gets the email. A sender that recycles does not
count as crashed."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.support.command import Command
from tests.support.relay import RecordingRelay
from tests.support.running import name_of
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.more, pytest.mark.timeout(900)]

PEOPLE = 6000
CONNECTIONS = 4
UNRECORDED = 64
MODULES = (
    "services.api",
    "services.dispatcher",
    "services.watchdog",
    "services.webhooks",
    "services.sender",
    "cli.local.broker",
)
PROGRAMS = ("api", "broker", "dispatcher", "sender-1", "sender-2", "watchdog", "webhooks")


def test_every_killed_process_is_restarted_once(tmp_path: Path, relay: RecordingRelay) -> None:
    command = Command(tmp_path, {"VASHSENDER_RELAYS": relay.url, "VASHSENDER_SMTP_CONNECTIONS": str(CONNECTIONS)})
    command.settings |= {"VASHSENDER_BATCH_SIZE": "200", "VASHSENDER_HEARTBEAT_SECONDS": "1"}
    try:
        command.ok("start", "--senders", "2", seconds=400)
        relay.behaviour.seconds_per_email = 0.2
        campaign = send(command, PEOPLE)
        pids = command.pids()
        wait_for(lambda: relay.received)
        for name in PROGRAMS:
            os.kill(pids[name], signal.SIGKILL)
            pids = back_and_single(command, killed={name: pids[name]}, others=pids)
        os.kill(node_of(pids["broker"]), signal.SIGKILL)
        pids = back_and_single(command, killed={"broker": pids["broker"]}, others=pids)

        supervisord = int((command.var / "run" / "supervisord.pid").read_text())
        os.kill(supervisord, signal.SIGKILL)
        assert command("status").returncode == 69
        command.ok("start", "--senders", "2", seconds=400)
        assert back_and_single(command, killed={}, others=pids) == pids

        # Also kills one of its children: the next start adopts the others and starts this one.
        os.kill(int((command.var / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
        os.kill(pids["sender-2"], signal.SIGKILL)
        monitored(command)
        back_and_single(command, killed={"sender-2": pids["sender-2"]}, others=pids)

        wait_for(lambda: command("health-check").returncode == 0, every=1)
        assert len(relay.copies) < PEOPLE  # all of that happened during the campaign
        relay.behaviour.seconds_per_email = 0.0
        last = command.json("campaign", "watch", campaign, "--timeout", "170")
        assert (last["status"], last["counts"]["sent"]) == ("finished", PEOPLE)
        assert last["rescued"] > 0
        assert len(relay.copies) == PEOPLE
        # Three kills: two senders, and one of them again.
        assert relay.duplicates <= 3 * (CONNECTIONS + UNRECORDED)
        command.ok("stop")
        assert command.processes() == []
    finally:
        command("stop")


def test_a_recycled_sender_does_not_count_as_a_crash(on_shared_broker: Command, relay: RecordingRelay) -> None:
    command = on_shared_broker
    command.settings |= {
        "VASHSENDER_RELAYS": relay.url,
        "VASHSENDER_BATCH_SIZE": "20",
        "VASHSENDER_RECYCLE_AFTER_BATCHES": "2",
        "VASHSENDER_CLOCK_SECONDS": "0.2",
    }
    command.ok("start", "--senders", "2", seconds=400)
    before = command.pids()
    campaign = send(command, 400)
    last = command.json("campaign", "watch", campaign, "--timeout", "170")
    assert (last["status"], last["counts"]["sent"]) == ("finished", 400)
    assert (len(relay.copies), relay.duplicates) == (400, 0)
    assert last["rescued"] == 0  # they gave their batches back
    said = [json.loads(line) for line in command.ok("logs", "sender", "-n", "10000").splitlines() if line[0] == "{"]
    assert sum(line["event"] == "service.restarting" for line in said) >= 2
    assert command.pids() == before
    rows = command.json("status")
    assert {(row["state"], row["restarts"]) for row in rows} == {("running", 0)}
    assert "exited" not in (command.var / "log" / "supervisord.log").read_text()


def send(command: Command, people: int) -> str:
    (command.folder / "people.csv").write_text("email\n" + "".join(f"p{each}@example.com\n" for each in range(people)))
    draft = {"name": "News", "from": {"email": "a@example.com"}, "subject": "Hi", "text": "Dear reader!"}
    (command.folder / "campaign.json").write_text(json.dumps({**draft, "recipients_file": "people.csv"}))
    return command.ok("campaign", "create", str(command.folder), "--send").strip()


def back_and_single(command: Command, killed: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Waits until everything runs again, each program once, and the survivors as the same processes.

    Returns the current pids."""

    def all_run() -> dict[str, int] | None:
        rows = {row["name"]: row for row in json.loads(command("status", "--json").stdout or "[]")}
        well = rows.keys() == set(PROGRAMS) and all(row["state"] == "running" for row in rows.values())
        now = {name: row["pid"] for name, row in rows.items()}
        return now if well and not set(now.values()) & set(killed.values()) else None

    now = wait_for(all_run)
    assert now is not None
    assert {name: pid for name, pid in now.items() if name not in killed} == {
        name: pid for name, pid in others.items() if name not in killed
    }
    ran = Counter(
        module
        for process in psutil.process_iter()
        for module in MODULES
        if module in (words := words_of(process)) and any(str(command.var) in word for word in words)
    )
    assert ran == Counter({**dict.fromkeys(MODULES, 1), "services.sender": 2})
    assert node_of(now["broker"])
    return now


def node_of(broker: int) -> int:
    """The pid of the RabbitMQ node."""

    def only() -> int:
        # A child of the node is briefly a copy of it.
        children = psutil.Process(broker).children(recursive=True)
        nodes = [child.pid for child in children if name_of(child) == "beam.smp"]
        return nodes[0] if len(nodes) == 1 else 0

    return wait_for(only)


def words_of(process: psutil.Process) -> list[str]:
    """The arguments of a process and the values of its environment."""
    try:
        return [*process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):
        return []


def monitored(command: Command) -> None:
    """Runs `monitor` until it has restarted supervisord."""
    with subprocess.Popen(
        command.line("monitor"), env=command.environment(), cwd=command.folder, stderr=subprocess.PIPE, text=True
    ) as monitor:
        assert monitor.stderr is not None
        deadline = time.monotonic() + 60
        for line in monitor.stderr:
            if "supervisord was gone" in line:
                break
            assert time.monotonic() < deadline
        monitor.send_signal(signal.SIGINT)
        try:
            assert monitor.wait(30) == 0
        finally:
            monitor.kill()
