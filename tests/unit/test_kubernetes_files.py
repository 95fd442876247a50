"""deploy/kubernetes names only existing settings, commands, ports, queues, metrics and rules."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from cli import access_files
from cli.access_rights import MONITOR
from cli.commands.machine import Service
from cli.effective import fields, variable
from cli.main import app_for
from scripts import kubernetes_rules, metrics_page
from services.sender.worker import FLUSH_SECONDS
from shared import topology
from shared.health import Health
from shared.http_port import HTTP_CLOSE_SECONDS
from shared.settings import SETTINGS, CommonSettings, DispatcherSettings, SenderSettings, load
from tests.support import kubernetes

ROOT = kubernetes.ROOT
SOURCES = kubernetes.sources()
DOCUMENTS = list(chain.from_iterable(SOURCES.values()))
SERVICES = ("api", "dispatcher", "feedback", "sender", "watchdog", "webhooks")
COMMAND_ONLY = {"VASHSENDER_URL"}
MOUNTED_AT = "/run/secrets/vashsender/"
"""The folder where each pod finds the files of its Secret."""


def document(kind: str, name: str, path: str = "") -> dict[str, Any]:
    found = [
        one
        for where, documents in SOURCES.items()
        for one in documents
        if (one["kind"], one.get("metadata", {}).get("name")) == (kind, name) and str(where).startswith(path)
    ]
    assert len(found) == 1, (kind, name)
    return found[0]


def kustomizations() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, documents in SOURCES.items():
        if path.name == "kustomization.yaml":
            yield path.parent, documents[0]


def overlays() -> Iterator[tuple[Path, dict[str, Any]]]:
    return ((path, one) for path, one in kustomizations() if path.parts[0] == "overlays")


def values() -> Iterator[tuple[str, str]]:
    """Every setting in any file with its value. Empty if only the cluster knows it."""
    for variables in kubernetes.values_of(DOCUMENTS, "env"):
        yield from ((one["name"], one.get("value", "")) for one in variables)
    for generator in chain.from_iterable(kubernetes.values_of(DOCUMENTS, "configMapGenerator")):
        for literal in generator.get("literals", ()):
            name, _, value = literal.partition("=")
            yield name, value


def test_every_setting_exists() -> None:
    known = {variable(name): field for _, name, field in fields()}
    secret = {name for name, field in known.items() if field.annotation is SecretStr}
    given = dict(values())
    ours = {name for name in given if name.startswith("VASHSENDER_")}
    assert {"VASHSENDER_RELAYS_FILE", "VASHSENDER_SLOT", "VASHSENDER_PUBLIC_URL", "VASHSENDER_DKIM_DIR"} <= ours
    unknown = ours - known.keys() - {f"{name}_FILE" for name in secret} - COMMAND_ONLY
    assert not unknown


def test_settings_have_valid_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads them as in production. Files exist only in the cluster."""
    for name, value in values():
        if value and not name.endswith("_FILE"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("VASHSENDER_ENVIRONMENT", "production")
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", "https://mail.example.com")
    monkeypatch.setenv("VASHSENDER_SECRET_KEY", "x" * 40)
    for settings_class in SETTINGS.values():
        load(settings_class)


def test_every_command_exists() -> None:
    root = typer.main.get_command(app_for(()))
    commands = [
        " ".join(container["args"])
        for container in chain.from_iterable(kubernetes.values_of(DOCUMENTS, "containers"))
        if container.get("args") and container.get("image", "vashsender") == "vashsender"
    ]
    waiting = document("Deployment", "any", "base/service.yaml")["spec"]["template"]["spec"]["initContainers"]
    commands += re.findall(r"vashsender ([a-z]+ [a-z]+)", waiting[0]["command"][2])
    assert {"run api", "db upgrade", "topology declare", "db check", "topology check"} <= set(commands)
    for command in commands:
        assert _is_verb(root, command.split()), command


def _is_verb(command: Any, words: list[str]) -> bool:
    """Finds a command of the CLI and its arguments."""
    verbs = getattr(command, "commands", None)
    if verbs is None:
        return not words or (command.name == "run" and words in [[service.value] for service in Service])
    return bool(words) and words[0] in verbs and _is_verb(verbs[words[0]], words[1:])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_its_own_account_secret_and_port(name: str) -> None:
    deployment = document("Deployment", f"vashsender-{name}", "base")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["vashsender/kind"] == "service"
    assert document("ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"] is False
    assert pod["volumes"][0] == {"name": "secrets", "secret": {"secretName": f"vashsender-{name}"}}
    assert document("Service", f"vashsender-{name}")["spec"]["selector"].items() <= labels.items()
    assert document("PodDisruptionBudget", f"vashsender-{name}")["spec"]["selector"]["matchLabels"].items() <= (
        labels.items()
    )


def test_a_pods_grace_period_exceeds_the_drain() -> None:
    drain = SenderSettings.model_fields["drain_seconds"].default
    publish = CommonSettings.model_fields["publish_timeout_seconds"].default
    sender = document("Deployment", "vashsender-sender", "base")["spec"]["template"]["spec"]
    assert sender["terminationGracePeriodSeconds"] > drain + FLUSH_SECONDS + 4 * publish + HTTP_CLOSE_SECONDS
    api = document("Deployment", "vashsender-api")["spec"]["template"]["spec"]
    wait = float(api["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert api["terminationGracePeriodSeconds"] > wait + HTTP_CLOSE_SECONDS + 4 * publish


def test_every_pod_is_unprivileged_and_read_only() -> None:
    """`pod.yaml` is merged into all of our pods. Pods of servers set the same themselves."""
    pods = [template["spec"] for template in kubernetes.values_of(DOCUMENTS, "template")]
    whole = [pod for pod in pods if "securityContext" in pod]
    assert len(whole) == 5
    for pod in whole:
        assert pod["automountServiceAccountToken"] is False
        # Otherwise the Service vashsender-api sets VASHSENDER_API_PORT=tcp://..., which is not a port number.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for containers in (
        *kubernetes.values_of(DOCUMENTS, "containers"),
        *kubernetes.values_of(DOCUMENTS, "initContainers"),
    ):
        for container in containers:
            if "securityContext" in container:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }


def test_it_matches_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    ours = document("Deployment", "any", "base/pod.yaml")["spec"]["template"]["spec"]
    service = document("Deployment", "any", "base/service.yaml")["spec"]["template"]["spec"]
    user, group = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[0]
    assert ours["securityContext"]["runAsUser"] == int(user)
    assert ours["securityContext"]["runAsGroup"] == ours["securityContext"]["fsGroup"] == int(group)
    assert {mount["mountPath"] for mount in ours["containers"][0]["volumeMounts"]} >= {
        re.findall(r"VASHSENDER_VAR_DIR=(\S+)", dockerfile)[0]
    }
    port = int(re.findall(r"VASHSENDER_HTTP_PORT=(\d+)", dockerfile)[0])
    api = document("Deployment", "vashsender-api", "base")["spec"]["template"]["spec"]
    assert api["containers"][0]["ports"] == [{"name": "http", "containerPort": port}]
    health_port = int(dict(values())["VASHSENDER_HEALTH_PORT"])
    assert service["containers"][0]["ports"] == [{"name": "health", "containerPort": health_port}]
    assert health_port != port


def test_probes_use_paths_that_every_service_answers() -> None:
    routes = {route.path for route in Health(CollectorRegistry()).routes()}
    service = document("Deployment", "any", "base/service.yaml")["spec"]["template"]["spec"]["containers"][0]
    asked = {name: service[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    metrics = document("PodMonitor", "vashsender")["spec"]["podMetricsEndpoints"][0]
    assert {*asked.values(), metrics["path"]} <= routes
    assert metrics["port"] == service["ports"][0]["name"] == "health"
    assert {service[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")} == {"health"}


def test_every_network_policy_names_both_ends() -> None:
    policies = [one for one in DOCUMENTS if one["kind"] == "NetworkPolicy"]
    rules = [
        (policy["metadata"]["name"], rule.get(end), rule.get("ports"))
        for policy in policies
        for direction, end in (("ingress", "from"), ("egress", "to"))
        for rule in policy["spec"].get(direction, ())
    ]
    assert len(rules) > 10
    for name, peers, ports in rules:
        assert peers, f"{name} allows every peer"
        assert all(peers), f"{name} has an empty peer, which is every peer"
        assert ports, f"{name} allows every port"
    for where in ("base", "overlays/production", "overlays/development"):
        assert [path for path in SOURCES if path.name == "network.yaml" and path.is_relative_to(where)], where


def test_strangers_reach_only_unsubscribe_links() -> None:
    ingress = document("Ingress", "vashsender", "overlays/production")["spec"]
    [rule] = ingress["rules"]
    assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [("/u", "Prefix")]
    assert ingress["tls"][0]["hosts"] == [rule["host"]]
    private = document("Ingress", "vashsender-private", "components")["spec"]["rules"][0]["host"]
    assert private != rule["host"]
    assert dict(values())["VASHSENDER_ALLOWED_HOSTS"] == private


@pytest.mark.parametrize(("overlay", "kustomization"), list(overlays()), ids=lambda value: getattr(value, "name", ""))
def test_secrets_are_files_that_access_new_writes(overlay: Path, kustomization: dict[str, Any], tmp_path: Path) -> None:
    made = {path.name for path in access_files.write(tmp_path / "access", access_files.Servers())}
    generated: dict[str, set[str]] = {}
    for generator in kustomization["secretGenerator"]:
        for entry in generator["files"]:
            key, _, file = entry.partition("=")
            generated.setdefault(generator["name"], set()).add(key)
            assert file.removeprefix("secrets/") in made | {"relays"} or (kubernetes.FOLDER / overlay / file).exists()
    common = {value.removeprefix(MOUNTED_AT) for _, value in values() if value.startswith(MOUNTED_AT)}
    accounts = {"amqp_url", "database_url"}
    assert common == accounts | {"secret_key", "unsubscribe_key", "relays"}
    for name in ("api", "operator"):
        assert generated[f"vashsender-{name}"] == accounts | {"secret_key"}
    for name in ("dispatcher", "watchdog"):
        assert generated[f"vashsender-{name}"] == accounts
    assert generated["vashsender-feedback"] == accounts | {"unsubscribe_key"}
    assert generated["vashsender-sender"] == accounts | {"unsubscribe_key", "relays"}
    assert generated["vashsender-migrate"] == {"database_url"}
    assert generated["vashsender-topology"] == {"amqp_url"}


def test_senders_scale_on_existing_metrics_and_queues() -> None:
    scaling = document("ScaledObject", "vashsender-sender")["spec"]
    assert document("Deployment", scaling["scaleTargetRef"]["name"], "base")
    backlog, tickets, held = scaling["triggers"]
    assert [trigger["type"] for trigger in scaling["triggers"]] == ["prometheus", "rabbitmq", "prometheus"]
    queue = tickets["metadata"]
    assert (queue["protocol"], queue["queueName"]) == ("http", topology.EMAIL)
    assert queue["excludeUnacknowledged"] == "false"
    in_hand = SenderSettings.model_fields["batches_in_hand"].default
    window = DispatcherSettings.model_fields["window_per_slot"].default
    assert int(queue["value"]) == in_hand * window
    secret = document("TriggerAuthentication", tickets["authenticationRef"]["name"])["spec"]
    reference = secret["secretTargetRef"][0]
    production = document_of_production()
    generator = next(one for one in production["secretGenerator"] if one["name"] == reference["name"])
    assert generator["files"] == [f"{reference['key']}=secrets/{MONITOR}_management_url"]
    assert generator["options"]["disableNameSuffixHash"] is True
    assert held["metadata"]["threshold"] == str(in_hand)
    for trigger, service, name in (
        (backlog, "dispatcher", "vashsender_backlog_emails"),
        (held, "sender", "vashsender_batches_in_hand"),
    ):
        query = trigger["metadata"]["query"]
        assert re.findall(r"vashsender_\w+", query) == [name]
        assert name in metrics_page.instruments(service)
        assert re.findall(r'namespace="([^"]+)"', query) == [production["namespace"]]
    assert scaling["minReplicaCount"] >= 1
    down = scaling["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    sender = document("Deployment", "vashsender-sender", "base")["spec"]["template"]["spec"]
    assert down["stabilizationWindowSeconds"] > sender["terminationGracePeriodSeconds"]


def document_of_production() -> dict[str, Any]:
    return SOURCES[Path("overlays/production/kustomization.yaml")][0]


def test_the_rules_match_those_of_prometheus() -> None:
    assert kubernetes_rules.TARGET.read_text() == kubernetes_rules.manifest(), "run: python -m scripts.kubernetes_rules"


def test_no_image_is_latest_and_no_secret_is_in_the_repository() -> None:
    for image in kubernetes.values_of(DOCUMENTS, "image"):
        assert image == "vashsender" or re.search(r":\d", image), image
    for _, kustomization in overlays():
        assert all(image["newTag"] != "latest" for image in kustomization["images"])
    assert "secrets/" in (kubernetes.FOLDER / ".gitignore").read_text().splitlines()


def test_every_file_is_used() -> None:
    used = set()
    for folder, kustomization in kustomizations():
        used.add(folder / "kustomization.yaml")
        for entry in kustomization.get("resources", ()):
            path = (kubernetes.FOLDER / folder / entry).resolve()
            assert path.exists(), path
            used.add(path.relative_to(kubernetes.FOLDER))
        used |= {folder / patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch}
    assert SOURCES.keys() <= used
