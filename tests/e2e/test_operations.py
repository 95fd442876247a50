"""The commands for inspection and repair, on a running installation."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import aio_pika
import pytest

from shared.relays.config import Tls
from tests.support.broker import BrokerVhost
from tests.support.command import Command
from tests.support.smtp.certificates import certificate_for_localhost
from tests.support.smtp.peers import PASSWORD, USER, aiosmtpd_relay
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.timeout(600), pytest.mark.more]


def running(command: Command, senders: int = 1) -> Command:
    command.settings["VASHSENDER_RELAYS"] = f"smtp://127.0.0.1:{command.port('mailbox')}?tls=none"
    command.ok("start", "--senders", str(senders), "--mailbox")
    return command


def draft(command: Command, folder: Path, people: int) -> str:
    body = {"name": "News", "from": {"email": "a@example.com"}, "subject": "Hi", "text": "Dear reader!"}
    recipients = [{"email": f"p{number}@example.com"} for number in range(people)]
    (folder / "campaign.json").write_text(json.dumps({**body, "recipients": recipients}))
    return command.ok("campaign", "create", str(folder)).strip()


def test_health_check_reports_and_repairs_problems(on_shared_broker: Command, tmp_path: Path) -> None:
    command = on_shared_broker
    before = command("health-check")
    assert before.returncode == 69  # cannot check without a schema
    [topology] = [row for row in json.loads(command("doctor", "--json").stdout) if row["name"] == "topology"]
    assert (topology["ok"], topology["advice"]) == (False, "`vashsender topology declare`")
    running(command)
    wait_for(lambda: command("health-check").returncode == 0)
    assert command.json("health-check") == {
        "healthy": True,
        "findings": [],
        "hanging": [],
        "hung": [],
        "fixed": [],
    }
    examined = {each["name"]: each["ok"] for each in command.json("doctor")}
    assert all(examined.values()), examined
    assert {"database", "schema", "clock", "broker", "topology", "disk", "file permissions", "ports"} <= examined.keys()
    assert any(name.startswith("relay 127.0.0.1") for name in examined)

    queues = {row["name"]: row for row in command.json("inspect", "queues")}
    assert queues["email"]["consumers"] == 1
    assert any(row["service"] == "sender" and row["alive"] for row in command.json("inspect", "stats")["services"])
    assert command.json("inspect", "active") == []

    command.ok("scale", "sender=0")
    campaign = draft(command, tmp_path, people=3)
    command.ok("campaign", "send", campaign)
    wait_for(lambda: command("health-check").returncode == 1)
    found = json.loads(command("health-check", "--timeout", "0", "--json").stdout)
    assert "queue email has no consumer" in {finding["what"] for finding in found["findings"]}
    assert [(hanging["campaign_id"], hanging["name"]) for hanging in found["hanging"]] == [(campaign, "News")]

    fixed = command("health-check", "--fix", "--json")
    assert fixed.returncode == 1  # the repair cannot start a sender
    command.ok("scale", "sender=1")
    assert command.json("campaign", "watch", campaign, "--timeout", "60")["status"] == "finished"
    wait_for(lambda: command("health-check").returncode == 0)


def test_doctor_checks_relays(installation: Callable[..., Command], tmp_path: Path) -> None:
    certificate = certificate_for_localhost(tmp_path)
    name = quote(PASSWORD)
    with aiosmtpd_relay(Tls.STARTTLS, certificate) as (one, _), aiosmtpd_relay(Tls.IMPLICIT, certificate) as (two, _):
        trusted = f"ca_file={certificate.certificate}"
        relays = {
            f"smtp://{USER}:{name}@127.0.0.1:{one}?{trusted}": "AUTH: accepted, no PIPELINING",
            f"smtps://127.0.0.1:{two}?{trusted}": "AUTH: offered, not used, no PIPELINING",
            f"smtps://{USER}:wrong@127.0.0.1:{two}?{trusted}&name=wrong-password": "auth: 535",
            f"smtps://127.0.0.1:{two}?name=nothing-trusted": "CERTIFICATE_VERIFY_FAILED",
            "smtp://127.0.0.1:1?tls=none": "[Errno 111]",
        }
        done = installation(VASHSENDER_RELAYS=" ".join(relays))("doctor", "--json")
    assert done.returncode == 1
    assert name not in done.stdout
    assert "wrong" not in done.stdout
    found = [each for each in json.loads(done.stdout) if each["name"].startswith("relay ")]
    assert [each["ok"] for each in found] == [True, True, False, False, False]
    for each, words in zip(found, relays.values(), strict=True):
        assert words in each["found"]
    assert "SIZE: up to 33.5544 MB" in found[0]["found"]


def test_a_purged_queue_loses_no_mail(on_shared_broker: Command, tmp_path: Path) -> None:
    command = running(on_shared_broker, senders=0)
    campaign = draft(command, tmp_path, people=20)
    command.ok("campaign", "send", campaign)
    wait_for(lambda: _waiting(command, "email") > 0)
    assert command("purge", "email").returncode == 64  # cannot ask for confirmation without a terminal
    assert command("purge", "nothing", "--yes").returncode == 65
    assert command.json("purge", "email", "--yes")["dropped"] > 0
    assert _waiting(command, "email") == 0
    command.ok("scale", "sender=1")
    campaign_now = command.json("campaign", "watch", campaign, "--timeout", "60")
    assert campaign_now["counts"]["sent"] == 20
    command.ok("campaign", "export", campaign, str(tmp_path / "results.ndjson.gz"))
    with gzip.open(tmp_path / "results.ndjson.gz") as results:
        assert [json.loads(line)["status"] for line in results] == ["sent"] * 20
    assert command("campaign", "export", campaign, str(tmp_path / "results.xlsx")).returncode == 65
    assert not list(tmp_path.glob("*results.xlsx*"))
    noted = [json.loads(line) for line in (command.var / "log" / "control.log").read_text().splitlines()]
    assert [entry["action"] for entry in noted] == ["start", "purge email", "scale sender=1"]


def test_dead_messages_are_listed_and_replayed(on_shared_broker: Command, broker_vhost: BrokerVhost) -> None:
    command = running(on_shared_broker)

    async def publish_nonsense() -> None:
        async with await aio_pika.connect(broker_vhost.admin_url) as connection:
            exchange = await (await connection.channel()).get_exchange("vashsender")
            message = aio_pika.Message(b'{"nonsense": true}', content_type="application/json")
            await exchange.publish(message, "batch.released")

    asyncio.run(publish_nonsense())
    wait_for(lambda: command.json("dead", "list"))
    for _ in range(2):  # listing removes nothing
        [dead] = command.json("dead", "list")
        assert (dead["queue"], dead["event"], dead["body"]) == ("email", "batch.released", '{"nonsense": true}')
    assert command("dead", "replay").returncode == 64
    assert command.json("dead", "replay", "--yes") == {"replayed": 1}
    wait_for(lambda: command.json("dead", "list"))  # it is still unreadable


def test_monitor_restarts_supervisord(on_shared_broker: Command) -> None:
    command = running(on_shared_broker)
    before = command.pids()
    with subprocess.Popen(
        command.line("monitor"), env=command.environment(), cwd=command.folder, stderr=subprocess.PIPE, text=True
    ) as monitor:
        assert monitor.stderr is not None
        _read_until(monitor, "sender-1: running")
        os.kill(int((command.var / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
        _read_until(monitor, "supervisord was gone")
        assert command.pids() == before
        os.kill(before["sender-1"], signal.SIGKILL)
        wait_for(lambda: command.pids().get("sender-1") not in (None, before["sender-1"]))
        monitor.send_signal(signal.SIGINT)
        try:
            ended = monitor.wait(20)
        except subprocess.TimeoutExpired:
            monitor.kill()  # the end of the block waits for it
            raise
        assert ended == 0
    after = command.pids()
    assert {name: pid for name, pid in after.items() if name != "sender-1"} == {
        name: pid for name, pid in before.items() if name != "sender-1"
    }
    assert after["sender-1"] != before["sender-1"]

    status, said = command.on_terminal("monitor", interrupt_at="Ctrl-C ends the display")
    assert status == 0
    assert "Restarts" in said
    assert command.pids() == after


def _waiting(command: Command, queue: str) -> int:
    return next(int(row["messages"]) for row in command.json("inspect", "queues") if row["name"] == queue)


def _read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} was never said, but: {''.join(said)}")
