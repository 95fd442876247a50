"""The image, built on a Debian made on this machine, and the example campaign sent through its containers."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from cli.account import settle
from cli.campaign_files import create_campaign, import_recipients, read_campaign
from cli.client import ApiClient
from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES
from cli.local.ports import free_port
from tests.support.containers import Container, Image, built_image
from tests.support.databases import empty_postgres
from tests.support.relay import RecordingRelay
from tests.support.run import TestRun
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(4800)

EXAMPLE = Path(__file__).parents[2] / "examples" / "spring-news"
OWN_BYTES = 170_000_000
HEALTHY_SECONDS = 90.0
UNHEALTHY_SECONDS = 30.0
CAMPAIGN_SECONDS = 180.0
STOP_SECONDS = 45.0
"""Shorter than `stop_grace_period` of compose.yaml."""


@pytest.fixture
def relay() -> Iterator[RecordingRelay]:
    """Refuses and defers the same recipients as the development mailbox."""
    relay = RecordingRelay()
    relay.behaviour.rcpt = _refuse
    relay.start()
    yield relay
    relay.stop()


def test_the_image_contains_only_what_it_needs(image: Image) -> None:
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["vashsender"]
    assert config["Cmd"] == ["run", "api"]
    assert config["Labels"]["org.opencontainers.image.version"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not config.get("Volumes")
    assert image.own_bytes <= OWN_BYTES, f"{image.own_bytes / 1e6:.0f} MB"
    for pattern in ("usr/bin/*gcc*", "usr/bin/make", "usr/bin/git", "**/bin/pip*", "**/site-packages/setuptools"):
        assert not list(image.tree.glob(pattern)), pattern
    for leftover in (
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "root/.cache",
        "source",
        "mnt/image",
        "etc/pip.conf",
    ):
        folder = image.tree / leftover
        assert not folder.exists() or not [path for path in folder.rglob("*") if path.is_file()], leftover
    assert not _find(image.tree, "-perm", "/6000", "-type", "f")
    assert _find(image.tree, "-user", "10001") == [str(image.tree / "var/lib/vashsender")]
    compiled = _find(image.tree / "opt", "-name", "*.pyc")
    assert len(compiled) > 1000


def test_it_can_have_compiled_modules(tmp_path: Path) -> None:
    with built_image(["python3-venv", "python3-dev", "gcc"], "--build-arg", "COMPILED=1") as image:
        for pattern in ("**/site-packages/mypy*", "**/site-packages/setuptools"):
            assert not list((image.tree / "opt").glob(pattern)), pattern
        script = (
            "from services.sender import feed; from shared.compiled import is_compiled\n"
            "assert feed.__file__.endswith('.so') and is_compiled()\n"
        )
        bare = replace(image, config={**image.config, "Entrypoint": []})
        container = Container(bare, tmp_path, "compiled", ["python3", "-c", script], {})
        assert container.run() == 0, container.log_tail()


def test_a_container_may_write_to_its_own_folder_only(image: Image, tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "assert int(status['CapEff'], 16) == 0 and status['NoNewPrivs'].strip() == '1'\n"
        "assert (os.getpid(), os.getuid(), os.getgroups()) == (1, 10001, [10001])\n"
        "pathlib.Path('/var/lib/vashsender/x').write_text('may be written')\n"
        "for path in ('/x', '/opt/vashsender/x', '/etc/x', '/run/secrets/x', sys.prefix + '/lib/x'):\n"
        "    try:\n"
        "        pathlib.Path(path).write_text('no')\n"
        "    except OSError as error:\n"
        "        assert error.errno == 30, error\n"
        "    else:\n"
        "        raise AssertionError(path)\n"
        "for module in ('pip', 'setuptools', 'ensurepip'):\n"
        "    try:\n"
        "        __import__(module)\n"
        "    except ImportError:\n"
        "        pass\n"
        "    else:\n"
        "        raise AssertionError(module)\n"
    )
    bare = replace(image, config={**image.config, "Entrypoint": []})
    container = Container(bare, tmp_path, "script", ["python3", "-c", script], {})
    assert container.run() == 0, container.log_tail()
    help_ = Container(image, tmp_path, "help", ["--help"], {})
    assert help_.run() == 0, help_.log_tail()


def test_containers_send_the_example_campaign(
    image: Image, run: TestRun, own_broker: PrivateBroker, relay: RecordingRelay, tmp_path: Path
) -> None:
    with empty_postgres(run) as database_url, ExitStack() as running:
        secrets = {
            "database_url": database_url,
            "amqp_url": own_broker.amqp_url(SERVICES),
            "secret_key": "a-key-of-this-test-alone-and-long-enough",
            "relays": relay.url,
        }
        common = {
            # Containers share this machine's network: use loopback and a separate port for each.
            "VASHSENDER_HTTP_HOST": "127.0.0.1",
            "VASHSENDER_DATABASE_URL_FILE": "/run/secrets/database_url",
            "VASHSENDER_AMQP_URL_FILE": "/run/secrets/amqp_url",
            "VASHSENDER_SECRET_KEY_FILE": "/run/secrets/secret_key",
        }

        def once(name: str, *command: str, **other_secrets: str) -> str:
            step = Container(image, tmp_path, name, command, common, {**secrets, **other_secrets})
            assert step.run() == 0, step.log_tail()
            return step.log_tail()

        def service(name: str) -> tuple[Container, int]:
            port = free_port()
            kind = name.partition("-")[0]
            own = {"VASHSENDER_HTTP_PORT": str(port)}
            if kind == "sender":
                own["VASHSENDER_RELAYS_FILE"] = "/run/secrets/relays"
            container = Container(image, tmp_path, name, ["run", kind], common | own, secrets)
            running.callback(container.kill)
            container.start()
            return container, port

        once("migrate", "db", "upgrade")
        once("topology", "topology", "declare", amqp_url=own_broker.amqp_url(ADMIN))
        key = once("key", "key", "create", "test").splitlines()[-1]
        names = ("api", "dispatcher", "watchdog", "sender-1", "sender-2")
        services = {name: service(name) for name in names}
        for container, _ in services.values():
            container.wait_health(True, HEALTHY_SECONDS)

        with ApiClient(f"http://127.0.0.1:{services['api'][1]}", key) as api:
            files = read_campaign(EXAMPLE)
            campaign_id = create_campaign(api, files)["id"]
            assert files.recipients is not None
            assert import_recipients(api, campaign_id, files.recipients)["accepted"] == 1000
            api.post(f"/v1/campaigns/{campaign_id}/send")
            _wait_finished(api, campaign_id)
            ledger = {row["email"]: row["status"] for row in api.pages(f"/v1/campaigns/{campaign_id}/recipients")}
        account = settle(ledger, relay.copies)
        assert account.line() == "1000 recipients: 995 sent, 5 failed, 0 lost, 0 duplicated"
        assert account.astray == 0
        assert all(_sent_by(services[name][1]) > 0 for name in ("sender-1", "sender-2")), "both had a part in it"

        api_container, api_port = services["api"]
        own_broker.stop()
        for name, (container, _) in services.items():
            if name != "api":
                container.wait_health(False, UNHEALTHY_SECONDS)
        assert httpx.get(f"http://127.0.0.1:{api_port}/health/ready", trust_env=False).json()["status"] == "degraded"
        assert '"broker"' in api_container.execute(image.health_check).stdout

        for name, (container, _) in services.items():
            began = time.monotonic()
            assert container.stop(STOP_SECONDS) == 0, container.log_tail()
            assert '"service.stopped"' in container.log_tail(), name
            print(f"{name} stopped in {time.monotonic() - began:.1f} s")  # noqa: T201


def _refuse(rcpt: str, tries: int) -> bytes | None:
    if rcpt.startswith("refused"):
        return b"550 5.1.1 no such mailbox\r\n"
    if rcpt.startswith("deferred") and tries == 0:
        return b"451 4.2.0 busy\r\n"
    return None


def _wait_finished(api: ApiClient, campaign_id: str) -> None:
    def campaign() -> dict[str, object]:
        found: dict[str, object] = api.get(f"/v1/campaigns/{campaign_id}")
        return found

    wait_until(lambda: campaign()["status"] == "finished", campaign, CAMPAIGN_SECONDS)


def _sent_by(port: int) -> float:
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("vashsender_emails_total{") and 'outcome="sent"' in line
    )


def _find(folder: Path, *criteria: str) -> Sequence[str]:
    done = subprocess.run(["find", folder, "-xdev", *criteria], capture_output=True, text=True, check=True)
    return done.stdout.split()
