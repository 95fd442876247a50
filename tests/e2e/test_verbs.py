"""The output and exit codes of commands, as a script sees them."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.broker import BrokerVhost
from tests.support.command import Command

pytestmark = [pytest.mark.timeout(480), pytest.mark.more]

UNKNOWN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def code(command: Command, *arguments: str, **settings: str) -> tuple[int, str]:
    """The exit code and the first line of stderr. Stdout must be empty."""
    done = command(*arguments, settings=settings)
    assert done.stdout == "", done.stdout
    return done.returncode, done.stderr.splitlines()[0] if done.stderr else ""


def test_wrong_usage_exits_with_64(installation: Callable[..., Command]) -> None:
    command = installation()
    assert "campaign" in command.ok("--help")
    assert code(command, "nonsense")[0] == 64
    assert code(command, "campaign", "show")[0] == 64
    assert code(command, "scale", "dispatcher=2")[0] == 64
    assert code(command, "run", "nobody")[0] == 64


def test_colours_are_for_terminals(installation: Callable[..., Command]) -> None:
    command = installation()
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    status, said = command.on_terminal("--help")
    assert status == 0
    assert colour.search(said)
    assert not colour.search(command.on_terminal("--help", settings={"NO_COLOR": "1"})[1])
    assert "\x1b" not in command.ok("--help")
    assert command.on_terminal("config", "show")[1].startswith("\x1b[1mSetting")  # a table with its heading
    assert "VASHSENDER_ENVIRONMENT\tdevelopment\tdefault\n" in command.ok("config", "show")


def test_some_commands_need_neither_broker_nor_api(installation: Callable[..., Command]) -> None:
    command = installation()
    assert code(command, "status")[0] == 69
    assert code(command, "scale", "sender=2")[0] == 69
    assert code(command, "restart")[0] == 69
    assert code(command, "topology", "check")[0] == 78  # no broker is configured
    assert code(command, "campaign", "list")[0] == 78  # there is no key yet
    assert code(command, "campaign", "list", "--key", "vs_x")[0] == 69
    assert code(command, "logs", "sender")[0] == 65

    assert code(command, "db", "check")[0] == 78
    command.ok("db", "upgrade")
    command.ok("db", "upgrade")
    assert command.json("db", "check")["ok"] is True

    key = command.ok("key", "create", "script").strip()
    assert key.startswith("vs_")
    [listed] = command.json("key", "list")
    assert listed["name"] == "script"
    assert key not in json.dumps(listed)
    assert code(command, "key", "revoke", listed["id"])[0] == 64  # cannot ask for confirmation without a terminal
    command.ok("key", "revoke", listed["id"], "--yes")
    assert code(command, "key", "revoke", listed["id"], "--yes")[0] == 65
    assert code(command, "key", "revoke", "no-uuid", "--yes")[0] == 64


def test_config_show_prints_values_and_sources(installation: Callable[..., Command]) -> None:
    command = installation(VASHSENDER_DATABASE_URL="postgresql://u:s3cret@db.test/x", VASHSENDER_PROFILE="high")
    (command.folder / "settings.env").write_text("VASHSENDER_BATCH_SIZE=100\n")
    command.settings["VASHSENDER_ENV_FILE"] = str(command.folder / "settings.env")
    (command.folder / "relays").write_text("smtp://u:hunter2@mail.test\n")
    command.settings["VASHSENDER_RELAYS_FILE"] = str(command.folder / "relays")
    shown = command.json("config", "show")
    assert shown["VASHSENDER_DATABASE_URL"] == {"value": "(set)", "source": "environment"}
    assert shown["VASHSENDER_RELAYS"] == {"value": "(set)", "source": f"file {command.folder / 'relays'}"}
    assert shown["VASHSENDER_BATCH_SIZE"] == {"value": 100, "source": f"file {command.folder / 'settings.env'}"}
    assert shown["VASHSENDER_SMTP_CONNECTIONS"] == {"value": 16, "source": "profile high"}
    assert shown["VASHSENDER_LEASE_SECONDS"] == {"value": 15.0, "source": "default"}
    text = command.ok("config", "show")
    assert "s3cret" not in text
    assert "hunter2" not in text

    del command.settings["VASHSENDER_ENV_FILE"]
    (command.folder / ".env").write_text("VASHSENDER_BATCH_SIZE=101\n")
    done = command("config", "show", "--json")
    assert json.loads(done.stdout)["VASHSENDER_BATCH_SIZE"] == {"value": 500, "source": "default"}
    assert f"{command.folder / '.env'} is not read" in done.stderr
    (command.folder / ".env").unlink()

    status, line = code(command, "config", "show", VASHSENDER_BATCH_SIZE="many")
    assert status == 78
    assert line.startswith("vashsender: VASHSENDER_BATCH_SIZE: ")


def test_an_unavailable_database_exits_with_69(installation: Callable[..., Command]) -> None:
    command = installation(VASHSENDER_DATABASE_URL="postgresql://u:p@127.0.0.1:1/x")
    for verb in (("db", "check"), ("db", "upgrade"), ("key", "list")):
        status, line = code(command, *verb)
        assert status == 69, line
        assert "database" in line
    checked = command("health-check")
    assert checked.returncode == 1
    assert "the database cannot be used" in checked.stdout


def test_doctor_reports_many_problems(installation: Callable[..., Command]) -> None:
    command = installation(
        VASHSENDER_DATABASE_URL="postgresql://u:p@127.0.0.1:1/x", VASHSENDER_AMQP_URL="amqp://u:p@127.0.0.1:1/"
    )
    key = command.var / "secrets" / "api_key"
    key.parent.mkdir(parents=True)
    key.write_text("vs_x")
    key.chmod(0o644)
    with socket.create_server(("127.0.0.1", command.port("api"))):
        done = command("doctor", "--json")
    assert done.returncode == 1
    examined = {row["name"]: row for row in json.loads(done.stdout)}
    assert {name for name, row in examined.items() if not row["ok"]} >= {
        "database",
        "broker",
        "file permissions",
        "ports",
    }
    assert str(key) in examined["file permissions"]["found"]
    assert f"{command.port('api')} (api) by " in examined["ports"]["found"]
    assert all(row["advice"] for row in examined.values() if not row["ok"])
    assert examined["disk"]["ok"]


def test_topology_is_declared_and_checked(installation: Callable[..., Command], broker_vhost: BrokerVhost) -> None:
    command = installation(
        VASHSENDER_AMQP_URL=broker_vhost.services_url, VASHSENDER_AMQP_ADMIN_URL=broker_vhost.admin_url
    )
    status, line = code(command, "topology", "check")
    assert status == 78
    assert "campaigns, email, default, heartbeats, dead" in line
    command.ok("topology", "declare")
    command.ok("topology", "declare")
    assert command.json("topology", "check") == {"missing": [], "ok": True}

    away = broker_vhost.admin_url.replace(f":{broker_vhost.broker.amqp_port}/", ":1/")
    assert code(command, "topology", "declare", VASHSENDER_AMQP_ADMIN_URL=away)[0] == 69
    wrong = broker_vhost.admin_url.replace("admin:", "admin:x")
    assert code(command, "topology", "declare", VASHSENDER_AMQP_ADMIN_URL=wrong)[0] == 78
    status, line = code(command, "topology", "declare", VASHSENDER_AMQP_ADMIN_URL=broker_vhost.services_url)
    assert status == 78
    assert "VASHSENDER_AMQP_ADMIN_URL" in line


def test_a_campaign_runs_from_the_command_line(on_shared_broker: Command, tmp_path: Path) -> None:
    command = on_shared_broker
    command.settings["VASHSENDER_RELAYS"] = f"smtp://127.0.0.1:{command.port('mailbox')}?tls=none"
    command.ok("start", "--senders", "1", "--mailbox")
    assert {state["state"] for state in command.json("status")} == {"running"}

    folder = tmp_path / "news"
    folder.mkdir()
    draft = {"name": "News", "from": {"email": "a@example.com"}, "subject": "Hi {{ name }}", "text_file": "body.txt"}
    (folder / "campaign.json").write_text(json.dumps(draft))
    status, line = code(command, "campaign", "create", str(folder))
    assert status == 65
    assert "body.txt" in line
    (folder / "body.txt").write_text("Dear {{ name }}!\n")
    campaign = command.ok("campaign", "create", str(folder)).strip()

    (folder / "wrong.csv").write_text('email,name\nann@example.com,"Ann\n')
    status, line = code(command, "campaign", "import", campaign, str(folder / "wrong.csv"))
    assert status == 65
    assert "Line 2 opens a quote" in line
    (folder / "people.csv").write_text(
        "email,name\nann@example.com,Ann\nANN@example.com,Ann\nnobody,No\nb@x.test,Ben\n"
    )
    report = command.json("campaign", "import", campaign, str(folder / "people.csv"))
    assert (report["accepted"], report["duplicates"], report["invalid"]) == (2, 1, 1)
    assert {problem["line"] for problem in report["problems"]} >= {4}

    assert code(command, "campaign", "pause", campaign)[0] == 65  # a draft cannot be paused
    assert code(command, "campaign", "show", UNKNOWN_ID)[0] == 65
    assert code(command, "campaign", "cancel", campaign)[0] == 64  # cannot ask for confirmation without a terminal
    assert code(command, "campaign", "list", VASHSENDER_API_KEY="vs_wrong")[0] == 78
    elsewhere = "http://127.0.0.1:1"
    assert code(command, "campaign", "list", VASHSENDER_URL=elsewhere)[0] == 78  # this key is not for there
    assert code(command, "campaign", "list", VASHSENDER_URL=elsewhere, VASHSENDER_API_KEY="vs_x")[0] == 69

    seen = command.json("campaign", "preview", campaign, "--html", str(folder / "letter.html"))
    assert seen["email"] == "ann@example.com"
    assert (folder / "letter.html").read_text() == (seen["html"] or "")
    assert "Subject: " in command.ok("campaign", "preview", campaign, "--data", "name=Zoë")
    assert code(command, "campaign", "preview", campaign, "--email", "eve@example.com")[0] == 65

    relay = "relay:mx.example"
    command.ok("limits", "set", relay, "--per-day", "500", "--warmup", "5", "1.5", "100")
    [row] = command.json("limits", "list")
    assert (row["scope"], row["emails_per_day"], row["cap_today"]) == (relay, 500, 5)
    assert relay in command.ok("limits", "list")
    assert code(command, "limits", "set", "campaign:x", "--per-day", "5")[0] == 65
    command.ok("limits", "remove", relay)
    assert code(command, "limits", "remove", relay)[0] == 65

    assert command.json("campaign", "send", campaign)["status"] == "queued"
    assert command.json("campaign", "watch", campaign, "--timeout", "60")["status"] == "finished"
    rows = command.json("campaign", "recipients", campaign, "--status", "sent")
    assert {row["email"] for row in rows} == {"ann@example.com", "b@x.test"}
    assert [row["id"] for row in command.json("campaign", "list", "--status", "finished")] == [campaign]
    assert command.json("campaign", "show", campaign)["timeline"]

    story = command("logs", "--campaign", campaign, "-n", "500").stdout.splitlines()
    assert {json.loads(line)["service"] for line in story} >= {"dispatcher", "sender"}

    paced = json.dumps({**draft, "emails_per_second": 1})
    (folder / "campaign.json").write_text(paced)
    slow = command.ok("campaign", "create", str(folder)).strip()
    command.ok("campaign", "import", slow, str(folder / "people.csv"))
    command.ok("campaign", "send", slow, "--at", "2099-01-01T00:00:00Z")
    assert code(command, "campaign", "watch", slow, "--timeout", "0.1")[0] == 75
    status, said = command.on_terminal("campaign", "watch", slow, interrupt_at="0/2")
    assert status == 0
    assert "detached; the campaign continues" in said
    assert command.json("campaign", "show", slow)["status"] == "scheduled"
    command.ok("campaign", "cancel", slow, "--yes")
    assert command.json("campaign", "watch", slow, "--timeout", "60")["status"] == "cancelled"

    assert code(command, "erase")[0] == 64  # the address from a pipe needs --yes
    status, said = command.on_terminal("erase", "--all-projects", typed="Ann@example.com\ny\n")
    assert status == 0
    assert "projects done: 1 of 1" in said
    rows = command.json("campaign", "recipients", campaign, "--status", "sent")
    assert {row["email"] for row in rows} == {"", "b@x.test"}
    assert "erased person" in command.ok("suppressions", "list")
    assert command("suppressions", "export", str(tmp_path / "all.csv")).returncode == 0
    assert ",,erased," in (tmp_path / "all.csv").read_text()


def test_senders_scale_and_a_restart_replaces_one_process_at_a_time(on_shared_broker: Command) -> None:
    command = on_shared_broker
    command.ok("start", "--senders", "1")
    before = command.pids()
    command.ok("scale", "sender=3")
    more = command.pids()
    assert {name: more[name] for name in before} == before
    assert set(more) - set(before) == {"sender-2", "sender-3"}
    assert scraped(command) == more.keys()
    command.ok("scale", "sender=2")
    assert scraped(command) == more.keys() - {"sender-3"}
    assert command.pids() == {name: pid for name, pid in more.items() if name != "sender-3"}
    command.ok("restart")
    after = command.pids()
    assert set(after) == {*before, "sender-2"}
    assert not set(after.values()) & set(more.values())
    command.ok("stop")
    assert command.processes() == []
    assert scraped(command) == set()
    command.ok("stop")


def scraped(command: Command) -> set[str]:
    """The targets of Prometheus."""
    targets = json.loads((command.var / "prometheus" / "vashsender.json").read_text())
    return {target["labels"]["instance"] for target in targets}


def test_a_wrong_setting_prevents_the_start_and_leaves_no_process(on_shared_broker: Command) -> None:
    status, _ = code(on_shared_broker, "start", VASHSENDER_RELAYS="gopher://mail.example.com")
    assert status == 78
    assert on_shared_broker.processes() == []


def test_production_without_a_relay_does_not_start(on_shared_broker: Command) -> None:
    done = on_shared_broker(
        "start",
        settings={
            "VASHSENDER_ENVIRONMENT": "production",
            "VASHSENDER_SECRET_KEY": "0123456789" * 4,
            "VASHSENDER_PUBLIC_URL": "https://mail.example.com",
        },
    )
    assert done.returncode == 78
    assert "VASHSENDER_RELAYS" in done.stderr.splitlines()[-1]
    assert on_shared_broker.processes() == []
