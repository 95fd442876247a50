"""deploy/systemd in a booted Debian 12: from a fresh server to running mail, with crashes, hangs, restarts and log
rotation. All tests share one server and build on each other, in order."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.account import Account, copies, settle
from cli.local import packages
from cli.mailbox.maildir import Maildir
from tests.support.debian_tree import debian
from tests.support.nspawn import Machine, boot, install

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "ca-certificates",
    "python3",
    "python3-venv",
    "rabbitmq-server",
    "logrotate",
    "nftables",
)
FEEDBACK = "vashsender-feedback"
SERVICES = ("vashsender-api", "vashsender-dispatcher", "vashsender-watchdog", "vashsender-webhooks", FEEDBACK)
SENDERS = ("vashsender-sender@1", "vashsender-sender@2")
FINAL = ("finished", "failed", "cancelled", "expired")
CAMPAIGN = {
    "name": "Tried under systemd",
    "from": {"email": "news@example.test", "name": "News"},
    "subject": "Hello {{ name }}",
    "text": "Dear {{ name }},\n\nhello.\n",
}

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def server() -> Iterator[Machine]:
    """Boots, installs and starts as in docs/systemd.md: two senders, feedback, and the development mailbox as relay."""
    if os.geteuid() != 0:
        pytest.fail("only root can boot a container: run make test-deploy as root", pytrace=False)
    packages.ensure(["systemd-container", "debootstrap"])
    with debian("bookworm", *PACKAGES) as tree:
        install(tree)
        (tree / "etc/hostname").write_text("mail\n")
        # Debian's own node, which the package starts at boot. Ours is separate.
        theirs = ["rabbitmq-server.service", "epmd.service", "epmd.socket"]
        subprocess.run(["systemctl", f"--root={tree}", "--quiet", "mask", *theirs], check=True)
        with boot(tree) as machine:
            _set_up(machine)
            yield machine


def _set_up(machine: Machine) -> None:
    machine.run("/opt/vashsender/deploy/systemd/install", "2")
    secrets = machine.tree / "etc/vashsender/secrets"
    (secrets / "relays").write_text("smtp://127.0.0.1:8703?tls=none&spare_connections=0\n")
    with (machine.tree / "etc/vashsender/vashsender.env").open("a") as settings:
        settings.write("VASHSENDER_HUNG_SECONDS=20\n")
    machine.run(
        "systemd-run",
        "--unit=mailbox",
        "--property=User=vashsender",
        "--property=StateDirectory=vashsender",
        "--setenv=VASHSENDER_VAR_DIR=/var/lib/vashsender",
        "/opt/vashsender/.venv/bin/python",
        "-P",
        "-m",
        "cli.mailbox",
    )
    machine.run("systemctl", "enable", "--quiet", FEEDBACK)
    machine.run("systemctl", "start", "vashsender.target")
    for unit in (*SERVICES, *SENDERS):
        _wait_ready(machine, unit)


def _status(machine: Machine, unit: str) -> str:
    return machine.unit(unit, "StatusText")


def _wait_ready(machine: Machine, unit: str) -> None:
    machine.wait(lambda: _status(machine, unit) == "ready", 300, f"{unit} is ready")


def _wait_ended(machine: Machine, unit: str) -> None:
    machine.wait(lambda: machine.unit(unit, "ActiveState") == "inactive", 200, f"the end of {unit}")


def _pid(machine: Machine, unit: str) -> int:
    return int(machine.unit(unit, "MainPID"))


def _restarts(machine: Machine, unit: str) -> int:
    return int(machine.unit(unit, "NRestarts"))


def _signal(machine: Machine, unit: str, number: signal.Signals) -> None:
    machine.run("kill", f"-{number.name.removeprefix('SIG')}", str(_pid(machine, unit)))


class Campaign:
    """One campaign, created and watched with the operator's command."""

    def __init__(self, machine: Machine, recipients: int, name: str, emails_per_second: float | None = None) -> None:
        self._machine = machine
        self._began = time.time() - 1
        self.addresses = [f"{name}-{number}@example.test" for number in range(recipients)]
        folder = machine.tree / "srv" / name
        folder.mkdir(mode=0o755)
        (folder / "campaign.json").write_text(json.dumps({**CAMPAIGN, "emails_per_second": emails_per_second}))
        lines = "".join(f"{address},Person {number}\n" for number, address in enumerate(self.addresses))
        (folder / "people.csv").write_text(f"email,name\n{lines}")
        self.id = _vashsender(machine, "campaign", "create", f"/srv/{name}").splitlines()[-1]
        _vashsender(machine, "campaign", "import", self.id, f"/srv/{name}/people.csv")
        _vashsender(machine, "campaign", "send", self.id)

    def show(self) -> dict[str, object]:
        answer: dict[str, object] = json.loads(_vashsender(self._machine, "campaign", "show", self.id, "--json"))
        return answer

    def sent(self) -> int:
        counts = self.show()["counts"]
        assert isinstance(counts, dict)
        return int(counts["sent"])

    def account(self) -> Account:
        """After its end."""
        self._machine.wait(lambda: self.show()["status"] in FINAL, 600, f"the end of {self.show()}")
        counts = self.show()["counts"]
        assert isinstance(counts, dict)
        assert counts["sent"] == counts["total"] == len(self.addresses), counts
        maildir = Maildir(self._machine.tree / "var/lib/vashsender/mailbox")
        found, _ = copies(maildir, self.id, self._began)
        return settle(dict.fromkeys(self.addresses, "sent"), found)


def _vashsender(machine: Machine, *arguments: str) -> str:
    key = machine.tree / "var/lib/vashsender/key"
    if not key.exists():
        machine.run("vashsender", "domain", "add", "example.test")
        key.write_text(machine.run("vashsender", "key", "create", "tests").splitlines()[-1])
    secret = key.read_text()
    return machine.run("env", f"VASHSENDER_API_KEY={secret}", "vashsender", *arguments)


def test_it_runs_as_a_separate_user_and_no_one_else_can_read_its_files(server: Machine) -> None:
    for unit in (*SERVICES, *SENDERS, "vashsender-broker"):
        status = server.run("cat", f"/proc/{_pid(server, unit)}/status")
        uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        assert server.run("id", "--name", "--user", uid) == "vashsender"
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
    readable = server.run(
        "find", "/etc/vashsender/secrets", "/var/lib/vashsender", "/var/log/vashsender", "-perm", "/077", "-type", "f"
    )
    # Closed folders protect everything below them.
    doors = server.run("stat", "-c", "%a %U", "/etc/vashsender/secrets", "/var/lib/vashsender", "/var/log/vashsender")
    assert doors.splitlines() == ["700 vashsender"] * 3
    assert [path for path in readable.splitlines() if "/broker/" not in path and "/mailbox/" not in path] == []


@pytest.mark.parametrize("unit", [*SERVICES, SENDERS[0], "vashsender-broker", "vashsender-prepare"])
def test_systemd_rates_the_exposure_of_units_as_low(server: Machine, unit: str) -> None:
    told = server.run("systemd-analyze", "security", "--no-pager", f"{unit}.service")
    [exposure] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert float(exposure) <= 2.0


def test_systemd_finds_no_mistake_in_the_units(server: Machine) -> None:
    units = [f"/etc/systemd/system/{unit}.service" for unit in (*SERVICES, "vashsender-sender@", "vashsender-prepare")]
    told = server.run("systemd-analyze", "verify", *units, "/etc/systemd/system/vashsender-broker.service")
    assert told == ""


def test_a_campaign_survives_a_crash_a_hang_and_a_restart(server: Machine) -> None:
    campaign = Campaign(server, 6_000, "hard-times", emails_per_second=150)
    server.wait(lambda: campaign.sent() > 500, 200, "the first emails")

    # Killed: restarted at once. Duplicates are bounded, and nothing is lost.
    restarts = _restarts(server, SENDERS[0])
    _signal(server, SENDERS[0], signal.SIGKILL)
    server.wait(lambda: _restarts(server, SENDERS[0]) > restarts, 100, "systemd starts the killed sender again")

    # Hanging: without a sign of life, systemd ends it and starts another.
    restarts = _restarts(server, SENDERS[1])
    _signal(server, SENDERS[1], signal.SIGSTOP)
    server.wait(lambda: _restarts(server, SENDERS[1]) > restarts, 200, "WatchdogSec ends the stopped sender")
    journal = server.run("journalctl", "--no-pager", "--output=cat", f"--unit={SENDERS[1]}")
    assert "Watchdog timeout" in journal

    account = campaign.account()
    assert (account.lost, account.astray) == (0, 0)
    # Two senders died: at most their open connections and 64 unrecorded results each.
    assert account.duplicated <= 2 * (8 + 64)


def test_a_rolling_restart_and_a_new_sender_lose_and_duplicate_nothing(server: Machine) -> None:
    campaign = Campaign(server, 6_000, "update", emails_per_second=150)
    server.wait(lambda: campaign.sent() > 100, 200, "the first emails")
    server.run("systemctl", "enable", "--now", "--quiet", "vashsender-sender@3")
    server.run("systemctl", "restart", "vashsender-prepare")
    for unit in (*SERVICES, *SENDERS):
        server.run("systemctl", "restart", unit)
    server.run("systemctl", "disable", "--now", "--quiet", "vashsender-sender@3")
    account = campaign.account()
    journal = server.run("journalctl", "--no-pager", "--output=short-iso", "--unit=vashsender-sender@*")
    assert (account.lost, account.duplicated, account.astray) == (0, 0, 0), f"{journal[-4000:]}\n{server.logs()}"


def test_a_frozen_api_is_ended_and_restarted(server: Machine) -> None:
    before = _pid(server, "vashsender-api")
    _signal(server, "vashsender-api", signal.SIGSTOP)
    server.wait(lambda: _pid(server, "vashsender-api") not in (0, before), 200, "another api")
    _wait_ready(server, "vashsender-api")
    # Its log shows where it was when it was ended.
    assert "Fatal Python error: Aborted" in (server.tree / "var/log/vashsender/api.log").read_text()


def test_a_wrong_setting_is_reported_and_not_retried_forever(server: Machine) -> None:
    settings = server.tree / "etc/vashsender/vashsender.env"
    before = settings.read_text()
    settings.write_text(before + "VASHSENDER_CLOCK_SECONDS=often\n")
    try:
        server.run("systemctl", "restart", "vashsender-watchdog", check=False)
        assert server.unit("vashsender-watchdog", "ExecMainStatus") == "78"
        assert server.unit("vashsender-watchdog", "ActiveState") == "failed"
        assert "VASHSENDER_CLOCK_SECONDS" in server.run("journalctl", "--no-pager", "--unit=vashsender-watchdog")
    finally:
        settings.write_text(before)
    server.run("systemctl", "restart", "vashsender-watchdog")
    assert server.unit("vashsender-watchdog", "ActiveState") == "active"


def test_services_start_without_a_broker_and_connect_later(server: Machine) -> None:
    server.run("systemctl", "stop", "vashsender-broker")
    server.run("systemctl", "restart", "vashsender-dispatcher")
    server.wait(lambda: "broker" in _status(server, "vashsender-dispatcher"), 100, "systemctl shows what is missing")
    assert server.unit("vashsender-dispatcher", "ActiveState") == "active"
    server.run("systemctl", "start", "vashsender-broker")
    _wait_ready(server, "vashsender-dispatcher")


def test_rotation_loses_no_line(server: Machine) -> None:
    campaign = Campaign(server, 2_000, "rotated")
    server.run("logrotate", "--debug", "/etc/logrotate.d/vashsender")
    folder = server.tree / "var/log/vashsender"
    before = {unit: _pid(server, unit) for unit in (*SERVICES, *SENDERS)}
    server.run("logrotate", "--force", "/etc/logrotate.d/vashsender")
    written = ("api", "dispatcher", "watchdog", "feedback", "webhooks", "sender-1", "sender-2")
    names = [f"{name}.log" for name in written]
    server.wait(lambda: all((folder / name).exists() for name in names), 100, "every service reopened its log")
    campaign.account()
    assert {unit: _pid(server, unit) for unit in before} == before
    lines = [line for name in names for path in (folder / f"{name}.1", folder / name) for line in _json_lines(path)]
    ours = [line for line in lines if line.get("campaign_id") == campaign.id]
    claimed = {(line["batch_id"], line["generation"]) for line in ours if line["event"] == "batch.claimed"}
    finished = {(line["batch_id"], line["generation"]) for line in ours if line["event"] == "batch.finished"}
    assert len({batch for batch, _ in claimed}) == 4
    assert claimed == finished
    modes = server.run("find", "/var/log/vashsender", "-type", "f", "-perm", "/077")
    assert modes == ""


def test_nft_accepts_the_firewall_example(server: Machine) -> None:
    server.run("nft", "--check", "--file", "/opt/vashsender/deploy/firewall/vashsender.nft")


def test_the_operators_command_works(server: Machine) -> None:
    assert "healthy" in server.run("sh", "-c", "vashsender health-check 2>&1")
    assert '"service": "sender"' in server.run("vashsender", "logs", "sender-1", "--lines", "5")
    assert {queue["name"] for queue in json.loads(_vashsender(server, "inspect", "queues", "--json"))} >= {"email"}
    told = json.loads(server.run("vashsender", "doctor", "--json", check=False))
    assert [(each["name"], each["found"]) for each in told if not each["ok"]] == []


def test_it_stops_and_starts_again(server: Machine) -> None:
    server.run("systemctl", "stop", "vashsender.target")
    for unit in (*SERVICES, *SENDERS, "vashsender-broker"):
        _wait_ended(server, unit)
        assert server.unit(unit, "Result") == "success", unit
    server.run("systemctl", "start", "vashsender.target")
    for unit in (*SERVICES, *SENDERS):
        _wait_ready(server, unit)


def _json_lines(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("{"):
            yield json.loads(line)
