"""`vashsender demo`, as a new user sees it."""

import os
import socket
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path

import httpx
import pytest

from cli.local.ports import is_free
from tests.support.broker import BrokerVhost
from tests.support.command import Command

pytestmark = pytest.mark.timeout(240)

LAST_LINE = "1000 recipients: 995 sent, 5 failed, 0 lost, 0 duplicated"


def test_the_demo_runs_twice_and_stops(installation: Callable[..., Command]) -> None:
    command = installation()
    first = command("demo", seconds=150)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == LAST_LINE
    assert "started: private RabbitMQ" in first.stderr
    assert "started: api, dispatcher, mailbox, sender-1, sender-2, watchdog, webhooks" in first.stderr
    key = command.var / "secrets" / "api_key"
    assert key.stat().st_mode & 0o777 == 0o600
    _the_emails_are_as_they_should_be(command.var / "mailbox" / "new")
    _the_page_shows_them_safely(command)
    pids = command.pids()

    second = command("demo", seconds=150)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-1] == LAST_LINE
    assert "already running: api, dispatcher, watchdog, webhooks, sender-1, sender-2, mailbox" in second.stderr
    assert "already in var/secrets/api_key" in second.stderr
    assert command.pids() == pids

    command.ok("stop")
    assert command.processes() == []
    assert all(is_free(int(port)) for name, port in command.settings.items() if name.endswith("_PORT"))


@pytest.mark.more
def test_the_demo_on_postgresql_survives_a_killed_sender(
    installation: Callable[..., Command], broker_vhost: BrokerVhost, postgresql_url: str
) -> None:
    command = installation(
        VASHSENDER_AMQP_URL=broker_vhost.services_url,
        VASHSENDER_AMQP_ADMIN_URL=broker_vhost.admin_url,
        VASHSENDER_DATABASE_URL=postgresql_url,
    )
    done = command("demo", "--kill-a-sender", seconds=150)
    assert done.returncode == 0, done.stderr
    assert "killed sender-1" in done.stderr
    words = done.stdout.splitlines()[-1].split()
    assert words[:8] == ["1000", "recipients:", "995", "sent,", "5", "failed,", "0", "lost,"]
    assert int(words[8]) <= 8 + 64  # its open connections and 64 unrecorded results
    assert not (command.var / "vashsender.db").exists()
    assert not (command.var / "broker").exists()


@pytest.mark.more
def test_the_demo_sends_nothing_to_the_users_own_relays(on_shared_broker: Command) -> None:
    on_shared_broker.ok("start", "--senders", "1")
    done = on_shared_broker("demo")
    assert done.returncode == 69
    assert "running here with your relays" in done.stderr


def test_an_occupied_port_is_reported_with_its_process(on_shared_broker: Command) -> None:
    port = on_shared_broker.port("mailbox")
    with socket.create_server(("127.0.0.1", port)):
        done = on_shared_broker("demo")
    assert done.returncode == 69
    assert f"port {port} (development mailbox) is taken by" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert on_shared_broker.processes() == []


def _the_emails_are_as_they_should_be(folder: Path) -> None:
    emails = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in folder.iterdir()]
    assert len(emails) == 995
    assert {email["List-Unsubscribe-Post"] for email in emails} == {"List-Unsubscribe=One-Click"}
    assert len({email["Message-ID"] for email in emails}) == 995
    cyrillic = next(email for email in emails if "весенние новости" in email["Subject"])
    latin = next(email for email in emails if "our spring news" in email["Subject"])
    for email, word in ((cyrillic, "Здравствуйте"), (latin, "Hello")):
        name = email["Subject"].partition(",")[0]
        for subtype in ("plain", "html"):
            body = email.get_body(preferencelist=(subtype,))
            assert body is not None
            assert f"{word}, {name}" in body.get_content().replace("Hello ", "Hello, ")


def _the_page_shows_them_safely(command: Command) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{command.port('mailbox_page')}", trust_env=False) as page:
        front = page.get("/").raise_for_status()
        assert "995 emails" in front.text
        assert "default-src 'none'" in front.headers["content-security-policy"]
        path = front.text.partition('<a href="/mail/')[2].partition('"')[0]
        shown = page.get(f"/mail/{path}").raise_for_status()
        assert f'<iframe sandbox="" src="/mail/{path}/html"' in shown.text
        alone = page.get(f"/mail/{path}/html").raise_for_status()
        assert alone.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert page.get("/mail/../../etc/passwd").status_code == 404
        assert page.get("/mail/nothing").status_code == 404
