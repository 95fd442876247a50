"""deploy/compose: valid by the schema of the specification, and hardened and pinned as docs/deploy.md says."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.access_files import Servers, write
from cli.commands.machine import Service
from cli.effective import fields, variable
from shared.settings import SenderSettings
from tests.support import compose

ROOT = Path(__file__).parents[2]
WHOLE = compose.load()
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
OURS = {"api", "dispatcher", "sender", "watchdog", "webhooks"}
ONCE = {"access", "migrate", "topology", "demo"}
LONG_RUNNING = sorted(SERVICES.keys() - ONCE)


def test_it_is_valid_by_the_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", compose.FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_can_change_only_its_data(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service
    for mount in compose.mounts(service):
        if mount.path is not None:
            assert mount.path.exists(), mount
            assert mount.read_only or name == "access", mount


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_services_restart_and_have_limits_and_health_checks(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["logging"]["options"]["max-size"]
    if name not in OURS | {"feedback"}:  # the check is in the image
        assert service["healthcheck"]["test"][0] == "CMD"
    drain = SenderSettings.model_fields["drain_seconds"].default
    assert compose.seconds(service["stop_grace_period"]) >= drain + 15


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_port_is_on_loopback(name: str) -> None:
    service = SERVICES[name]
    assert "container_name" not in service
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
    if "outside" not in service.get("networks", ()):
        assert "ports" not in service
    if name in ("rabbitmq", "postgres"):
        assert service["networks"] == ["inside"]
    assert WHOLE["networks"]["inside"] == {"internal": True}


def test_a_scalable_service_has_no_fixed_name_or_port() -> None:
    assert not {"ports", "container_name", "hostname"} & SERVICES["sender"].keys()


@pytest.mark.parametrize("name", sorted(OURS))
def test_services_start_after_schema_and_topology(name: str) -> None:
    conditions = {other: rule["condition"] for other, rule in SERVICES[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "topology": "service_completed_successfully",
        "rabbitmq": "service_healthy",
        "postgres": "service_healthy",
    }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["topology"]["depends_on"] == {"rabbitmq": {"condition": "service_healthy"}}


def test_profiles_select_the_mailbox_and_observability() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", [""]):
            by_profile.setdefault(profile, set()).add(name)
    assert by_profile == {
        "": OURS | {"migrate", "topology", "rabbitmq", "postgres"},
        "setup": {"access"},
        "demo": {"demo"},
        "development": {"mailbox"},
        "feedback": {"feedback"},
        "observability": {"prometheus", "grafana"},
    }


def test_every_secret_is_a_file_that_access_new_writes(tmp_path: Path) -> None:
    written = {path.name for path in write(tmp_path / "secrets", Servers("rabbitmq", "postgres"))}
    for name, secret in WHOLE["secrets"].items():
        path = Path(secret["file"])
        assert set(secret) == {"file"}
        assert path.name in written or name == "api_key" or (name == "relays" and (compose.FOLDER / path).exists())
    used = {name for service in SERVICES.values() for name in compose.secrets(service).values()}
    assert used == WHOLE["secrets"].keys()


@pytest.mark.parametrize("name", sorted(OURS | {"feedback"}))
def test_a_service_has_its_own_accounts_only(name: str) -> None:
    mine = compose.secrets(SERVICES[name])
    assert mine["/run/secrets/amqp_url"] == f"{name}_amqp_url"
    assert mine["/run/secrets/database_url"] == f"{name}_database_url"
    others = {"api": {"secret_key"}, "sender": {"unsubscribe_key", "relays"}, "feedback": {"unsubscribe_key"}}
    assert set(mine.values()) == {f"{name}_amqp_url", f"{name}_database_url", *others.get(name, set())}


def test_it_contains_no_password() -> None:
    names = {variable(name) for _, name, _ in fields()}
    for service in SERVICES.values():
        given = service.get("environment", {})
        mine = compose.secrets(service)
        for name, value in given.items():
            if name.endswith("_FILE"):
                assert value in mine, f"{name} names {value}, which is not mounted"
                assert name.endswith("__FILE") or name.removesuffix("_FILE") in names | {"POSTGRES_PASSWORD"}
            else:
                assert not re.search(r"password|secret|key", name, re.IGNORECASE), name
                assert not name.startswith("VASHSENDER_") or name in names | {"VASHSENDER_DASHBOARDS"}


def test_images_are_pinned_and_ours_is_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in SERVICES.items():
        repository, _, tag = service["image"].partition(":")
        assert re.match(r"v?\d+\.?\d*", tag), f"{name}: {service['image']}"
        if repository == "vashsender":
            assert tag == version


def test_commands_of_containers_exist() -> None:
    ran = [service["command"][1] for service in SERVICES.values() if service.get("command", [""])[0] == "run"]
    assert {*OURS, "feedback", "mailbox"} == set(ran)
    assert all(find_spec(Service(name).module) for name in ran)


def test_prometheus_scrapes_the_same_jobs_as_on_one_machine() -> None:
    here, there = (
        yaml.safe_load(path.read_text())
        for path in (compose.FOLDER / "prometheus.yml", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    )
    discovery = {"file_sd_configs", "dns_sd_configs", "static_configs", "relabel_configs"}
    for configuration in (here, there):
        for job in configuration["scrape_configs"]:
            for key in discovery & job.keys():
                if key != "dns_sd_configs":
                    del job[key]
    found = here["scrape_configs"][0].pop("dns_sd_configs")
    assert here == there
    assert set(found[0]["names"]) == {*OURS, "feedback"}
    assert str(found[0]["port"]) == SERVICES["api"]["environment"]["VASHSENDER_HEALTH_PORT"]
    assert all(not port.endswith(f":{found[0]['port']}") for port in SERVICES["api"]["ports"])


def test_the_example_names_variables_that_exist() -> None:
    text = (compose.FOLDER / "env.example").read_text()
    named = set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE)) - {"COMPOSE_PROFILES"}
    assert named <= set(re.findall(r"\$\{(\w+)", compose.FILE.read_text()))


DOCKER = """#!/bin/sh
for image; do :; done
case $image in
    grafana/*) [ -z "$MISSING" ] || exit 1 ;;
esac
echo "${image%:*}@sha256:$(printf %064d "${#image}")"
"""


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A copy of the folder, and a `docker` that knows a digest of each image."""
    folder = tmp_path / "compose"
    folder.mkdir()
    for name in ("compose.yaml", "broker-cluster.yaml", "pin-images"):
        shutil.copy(compose.FOLDER / name, folder / name)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    return folder


def pin(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = {"PATH": f"{folder.parent}:/usr/bin:/bin", "MISSING": "", **environment}
    return subprocess.run([folder / "pin-images"], env=given, capture_output=True, text=True, check=False)


def test_images_are_pinned_by_digest_when_asked(pinned: Path) -> None:
    (pinned / ".env").write_text("COMPOSE_PROFILES=observability\nRABBITMQ_IMAGE=old\n")
    for _ in range(2):
        assert pin(pinned).returncode == 0
    lines = dict(line.split("=", 1) for line in (pinned / ".env").read_text().splitlines())
    assert lines.pop("COMPOSE_PROFILES") == "observability"
    assert set(lines) == {"RABBITMQ_IMAGE", "POSTGRES_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE"}
    images = {
        name: service["image"] for name, service in compose.load(lines)["services"].items() if name not in OURS | ONCE
    }
    for name in ("rabbitmq", "postgres", "prometheus", "grafana"):
        assert re.fullmatch(rf"(\w+/)?{name}@sha256:[0-9a-f]{{64}}", images[name]), images[name]


def test_an_image_that_is_not_here_is_named_and_changes_nothing(pinned: Path) -> None:
    (pinned / ".env").write_text("RABBITMQ_IMAGE=old\n")
    failed = pin(pinned, MISSING="yes")
    assert failed.returncode != 0
    assert "grafana/grafana:11.6.0 is not here" in failed.stderr
    assert (pinned / ".env").read_text() == "RABBITMQ_IMAGE=old\n"
