"""The unchanged compose.yaml on a real Docker Engine with Docker Compose, with the commands of docs/deploy.md.

No registry is needed: the image is that of test_image.py, and Debian 13's RabbitMQ, PostgreSQL and Prometheus replace
the images of the same name (substitute_images/).
"""

import json
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.account import Account, settle
from tests.support import compose
from tests.support.containers import Image
from tests.support.engine import Engine, engine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(7200)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "spring-news"
SUBSTITUTE_IMAGES = Path(__file__).parent / "substitute_images"
VASHSENDER = Path(sys.executable).parent / "vashsender"
OURS = ("api", "dispatcher", "feedback", "sender", "watchdog", "webhooks")
PROFILES = "development,feedback"
ONCE = ("migrate", "topology")
CAMPAIGN_SECONDS = 600
TARGETS_SECONDS = 120
EXACT = "1000 recipients: 995 sent, 5 failed, 0 lost, 0 duplicated"
DUMP = shlex.split("pg_dump --username postgres --format custom vashsender")
RESTORE = shlex.split("pg_restore --username postgres --clean --if-exists --exit-on-error --dbname vashsender")
UPDATED = "org.example.updated"


@dataclass
class Stack:
    """One project: a copy of deploy/ with new secrets."""

    engine: Engine
    folder: Path
    key: str = ""

    def script(self, name: str, *arguments: str) -> str:
        """Runs `start` or `demo` beside compose.yaml."""
        variables = {**self.engine.environment, "DOCKER_COMPOSE": str(self.engine.folder / "docker-compose")}
        return self.engine.inside([str(self.folder / name), *arguments], variables)

    def compose(self, *arguments: str, given: Path | None = None, into: Path | None = None) -> str:
        return self.engine.compose(self.folder, *arguments, given=given, into=into)

    def up(self, *arguments: str) -> None:
        self.compose("up", "--detach", "--wait", *arguments)

    def containers(self, service: str) -> list[dict[str, Any]]:
        ids = self.compose("ps", "--all", "--quiet", service).split()
        return [dict(self.engine.inspect(container)) for container in ids]

    def vashsender(self, *arguments: str) -> str:
        """Runs the operator's command on the Docker host."""
        variables = {"VASHSENDER_URL": "http://127.0.0.1:8700", "VASHSENDER_API_KEY": self.key}
        return self.engine.inside([str(VASHSENDER), *arguments], variables)

    def create(self, folder: Path) -> str:
        """Creates a campaign like the example and imports its recipients."""
        campaign_id = self.vashsender("campaign", "create", str(folder)).strip()
        report = json.loads(
            self.vashsender("campaign", "import", campaign_id, str(EXAMPLE / "recipients.csv"), "--json")
        )
        assert report["accepted"] == 1000
        return campaign_id

    def account(self, campaign_id: str) -> Account:
        """Compares the ledger, through the API, with the mailbox in its container."""
        rows = json.loads(self.vashsender("campaign", "recipients", campaign_id, "--json"))
        script = (
            "import json, pathlib, sys\n"
            "from cli.account import copies\n"
            "from cli.mailbox.maildir import Maildir\n"
            "print(json.dumps(copies(Maildir(pathlib.Path('/var/lib/vashsender/mailbox')), sys.argv[1], 0)[0]))\n"
        )
        found = json.loads(self.compose("exec", "-T", "mailbox", "python3", "-P", "-c", script, campaign_id))
        return settle({row["email"]: row["status"] for row in rows}, found)


@pytest.fixture(scope="module")
def docker(image: Image) -> Iterator[Engine]:
    wanted = {name: compose.load()["services"][name]["image"] for name in ("rabbitmq", "postgres", "prometheus")}
    images = {tag: f"{name}.Dockerfile" for name, tag in wanted.items()}
    with engine(["rabbitmq-server", "postgresql-17", "prometheus"], images, SUBSTITUTE_IMAGES) as started:
        archive = started.folder / "vashsender.tar"
        image.save(archive, compose.load()["services"]["api"]["image"])
        started.docker("load", "--quiet", "--input", archive)
        archive.unlink()
        yield started


@pytest.fixture(scope="module")
def stack(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One command: secrets, services and a key. Only .env is given, because no registry has the images."""
    root = tmp_path_factory.mktemp("compose")
    deploy = root / "deploy"
    shutil.copytree(ROOT / "deploy", deploy, ignore=shutil.ignore_patterns("secrets", ".env"))
    shutil.copytree(ROOT / "examples", root / "examples")
    project = Stack(docker, deploy / "compose")
    ours = compose.load()["services"]["api"]["image"]
    # Grafana has no substitute.
    (project.folder / ".env").write_text(f"COMPOSE_PROFILES={PROFILES}\nVASHSENDER_IMAGE={ours}\n")
    try:
        project.script("start")
        project.key = (project.folder / "secrets" / "api_key").read_text().strip()
        yield project
    finally:
        project.compose("--profile", "observability", "down", "--volumes", "--timeout", "20")


def test_docker_compose_reads_the_file_as_intended(stack: Stack) -> None:
    understood = json.loads(stack.compose("--profile", "*", "config", "--format", "json", "--no-path-resolution"))[
        "services"
    ]
    assert understood.keys() == compose.load()["services"].keys()
    for name, service in compose.load()["services"].items():
        assert understood[name]["image"] == service["image"]
        assert understood[name].get("environment") == service.get("environment"), name


def test_services_start_in_order_and_without_privileges(stack: Stack) -> None:
    """Before a second start, which runs the two that end once more."""
    for name in ONCE:
        (container,) = stack.containers(name)
        assert container["State"]["ExitCode"] == 0
    for name in OURS:
        for container in stack.containers(name):
            assert container["State"]["Health"]["Status"] == "healthy", name
            assert container["State"]["StartedAt"] > stack.containers("topology")[0]["State"]["FinishedAt"]
            assert container["Config"]["User"] == "10001:10001"
    for name in (*OURS, "mailbox", "rabbitmq", "postgres"):
        for container in stack.containers(name):
            host = container["HostConfig"]
            assert host["ReadonlyRootfs"], name
            assert host["CapDrop"] == ["ALL"], name
            assert host["SecurityOpt"] == ["no-new-privileges:true"], name
            assert container["State"]["Health"]["Status"] == "healthy", name
            assert host["Memory"] > 0, name


def test_it_starts_again_with_the_same_secrets_and_sends_the_example(stack: Stack) -> None:
    secrets = stack.folder / "secrets"
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((secrets / "api_key").stat().st_mode) == 0o600
    stack.script("start")
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    stack.script("demo")
    (campaign,) = json.loads(stack.vashsender("campaign", "list", "--json"))
    assert campaign["status"] == "finished"
    account = stack.account(campaign["id"])
    assert (account.line(), account.astray) == (EXACT, 0)
    _forget_bounces(stack)


def test_broker_and_database_are_isolated_from_outside(stack: Stack) -> None:
    for name in ("rabbitmq", "postgres", "dispatcher", "watchdog"):
        (container,) = stack.containers(name)
        assert list(container["NetworkSettings"]["Networks"]) == ["vashsender_inside"]
        assert not any(container["NetworkSettings"]["Ports"].values())
    for name in ("api", "feedback", "mailbox"):
        (container,) = stack.containers(name)
        for bindings in container["NetworkSettings"]["Ports"].values():
            assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings or ())


def test_a_mail_server_on_the_host_reaches_feedback(stack: Stack) -> None:
    speak = "import smtplib; print(smtplib.LMTP('127.0.0.1', 8708, timeout=30).ehlo()[0])"
    assert stack.engine.inside([sys.executable, "-c", speak], {}) == "250\n"


def test_four_senders_send_the_example_and_each_is_a_target_of_prometheus(stack: Stack) -> None:
    stack.up("--scale", "sender=4")
    stack.compose("--profile", "observability", "up", "--detach", "--wait", "prometheus")
    campaign_id = stack.create(EXAMPLE)
    stack.vashsender("campaign", "send", campaign_id)
    stack.vashsender("campaign", "watch", campaign_id, "--timeout", str(CAMPAIGN_SECONDS))
    account = stack.account(campaign_id)
    assert (account.line(), account.astray) == (EXACT, 0)
    _wait_for(stack, 'count(up{job="vashsender",service="sender"} == 1) == 4')
    _wait_for(stack, 'count(up{job="vashsender"} == 1) == 9')
    _wait_for(stack, 'count(up{job=~"rabbitmq.*"} == 1) == 2')
    # Those of the example that was sent before, too: its sender still runs.
    sent = sum(campaign["counts"]["sent"] for campaign in json.loads(stack.vashsender("campaign", "list", "--json")))
    _wait_for(stack, f'sum(vashsender_emails_total{{outcome="sent"}}) == {sent}')


def test_an_update_during_a_campaign_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(EXAMPLE, slow)
    body = json.loads((slow / "campaign.json").read_text())
    (slow / "campaign.json").write_text(json.dumps({**body, "name": "Slow", "emails_per_second": 5}))
    tag = compose.load()["services"]["api"]["image"]
    (tmp_path / "Dockerfile").write_text(f"FROM {tag}\nLABEL {UPDATED}=yes\n")
    _forget_bounces(stack)
    campaign_id = stack.create(slow)
    stack.vashsender("campaign", "send", campaign_id)
    stack.engine.docker("build", "--quiet", "--tag", tag, tmp_path)
    # Without the mailbox, which would lose its emails.
    stack.up("--scale", "sender=4", *OURS)
    open_after = json.loads(stack.vashsender("campaign", "show", campaign_id, "--json"))["counts"]["pending"]
    for name in (*OURS, "migrate"):
        for container in stack.containers(name):
            assert container["Config"]["Labels"].get(UPDATED) == "yes", name
    assert open_after > 0, "the update came after the campaign: it shows nothing"
    stack.vashsender("campaign", "watch", campaign_id, "--timeout", str(CAMPAIGN_SECONDS))
    account = stack.account(campaign_id)
    assert (account.line(), account.astray) == (EXACT, 0)


def test_a_backup_can_be_restored(stack: Stack, tmp_path: Path) -> None:
    before = stack.vashsender("campaign", "list", "--json")
    dump = tmp_path / "ledger.dump"
    stack.compose("exec", "-T", "postgres", *DUMP, into=dump)
    late = stack.vashsender("campaign", "create", str(EXAMPLE)).strip()
    stack.compose("stop")
    for name in OURS:
        for container in stack.containers(name):
            assert container["State"]["ExitCode"] == 0, f"{name} was killed, or failed"
    stack.up("postgres")
    stack.compose("exec", "-T", "postgres", *RESTORE, given=dump)
    stack.up("api")
    assert stack.vashsender("campaign", "list", "--json") == before
    assert late not in before
    stack.up("--scale", "sender=2")
    _forget_bounces(stack)
    campaign_id = stack.create(EXAMPLE)
    stack.vashsender("campaign", "send", campaign_id)
    stack.vashsender("campaign", "watch", campaign_id, "--timeout", str(CAMPAIGN_SECONDS))
    account = stack.account(campaign_id)
    assert (account.line(), account.astray) == (EXACT, 0)


def _wait_for(stack: Stack, query: str) -> None:
    """Waits for a result of Prometheus, queried inside its container as its port is not published."""
    ask = ("exec", "-T", "prometheus", "promtool", "query", "instant", "http://127.0.0.1:9090", query)
    wait_until(lambda: stack.compose(*ask).strip(), lambda: query, TARGETS_SECONDS)


def _forget_bounces(stack: Stack) -> None:
    """Removes suppressions, since recipients that the mailbox refused would not be tried again."""
    script = (
        "import json, os, sys\n"
        "from cli.client import ApiClient\n"
        "with ApiClient(os.environ['VASHSENDER_URL'], os.environ['VASHSENDER_API_KEY']) as api:\n"
        "    for row in list(api.pages('/v1/suppressions', reason='bounced')):\n"
        "        api.delete('/v1/suppressions', email=row['email'])\n"
    )
    variables = {"VASHSENDER_URL": "http://127.0.0.1:8700", "VASHSENDER_API_KEY": stack.key, "PYTHONPATH": str(ROOT)}
    stack.engine.inside([sys.executable, "-c", script], variables)
