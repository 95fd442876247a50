"""deploy/kubernetes as rendered by Kustomize: every resource is valid by the models of Kubernetes, KEDA and the
Prometheus operator, and all references exist. Needs no cluster."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cli.access_rights import MONITOR
from shared.reception import ADMIN
from tests.support import kubernetes
from tests.support.kubernetes import OVERLAYS, Rendered, Resource

pytestmark = pytest.mark.timeout(600)

SERVICES = ("api", "dispatcher", "feedback", "sender", "watchdog", "webhooks")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Rendered]:
    return kubernetes.overlays(tmp_path_factory.mktemp("rendered") / "kubernetes")


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, rendered: Mapping[str, Rendered]) -> Rendered:
    return rendered[request.param]


def test_every_resource_is_valid_by_its_model(overlay: Rendered) -> None:
    assert len(overlay.resources) > 35
    assert kubernetes.problems(overlay.resources) == []


def _without(*path: str | int) -> Callable[[Any], None]:
    def spoil(resource: Any) -> None:
        for key in path[:-1]:
            resource = resource[key]
        del resource[path[-1]]

    return spoil


def _with(value: object, *path: str | int) -> Callable[[Any], None]:
    def spoil(resource: Any) -> None:
        for key in path[:-1]:
            resource = resource[key]
        resource[path[-1]] = value

    return spoil


CONTAINER = ("spec", "template", "spec", "containers", 0)
SPOILT = [
    ("Deployment", _with("2", "spec", "replicas")),
    ("Deployment", _with(True, *CONTAINER, "readonlyRootFilesystem")),
    ("Deployment", _without("spec", "selector")),
    ("Job", _with("Sometimes", "spec", "template", "spec", "restartPolicy", "policy")),
    ("NetworkPolicy", _with([], "spec", "egres")),
    ("PodDisruptionBudget", _with(1, "spec", "maxUnavailabe")),
    ("ScaledObject", _without("spec", "scaleTargetRef", "name")),
    ("ScaledObject", _with("8", "spec", "maxReplicaCount")),
    ("ScaledObject", _with(8, "spec", "maxReplicas")),
    ("TriggerAuthentication", _without("spec", "secretTargetRef", 0, "key")),
    ("PodMonitor", _with("15s", "spec", "podMetricsEndpoints", 0, "intervall")),
    ("PodMonitor", _without("spec", "selector")),
    ("PrometheusRule", _with("5m", "spec", "groups", 0, "rules", 0, "fro")),
]


def test_a_resource_that_is_wrong_is_refused(rendered: Mapping[str, Rendered]) -> None:
    """Shows that the validation above finds problems."""
    wrong = []
    for number, (kind, spoil) in enumerate(SPOILT):
        resource = copy.deepcopy(rendered["production"].of(kind)[0])
        if kind == "Job":
            resource["spec"]["template"]["spec"]["restartPolicy"] = {}
        resource["metadata"]["name"] = f"wrong-{number}"
        spoil(resource)
        wrong.append(resource)
    found = {problem.split(":")[0] for problem in kubernetes.problems(wrong)}
    assert found == {f"{kind}/wrong-{number}" for number, (kind, _) in enumerate(SPOILT)}


def _pods_of(service: Resource, overlay: Rendered) -> str:
    """The name of what creates the pods of a Service: its own, or that of a StatefulSet whose pods it names."""
    name: str = service["metadata"]["name"]
    governed: dict[str, str] = {
        maker["spec"]["serviceName"]: maker["metadata"]["name"] for maker in overlay.of("StatefulSet")
    }
    return governed.get(name, name)


def test_selectors_find_pods(overlay: Rendered) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in overlay.pods.items()}

    def selected(selector: Mapping[str, str]) -> set[str]:
        return {name for name, own in labels.items() if selector.items() <= own.items()}

    for maker in overlay.of("Deployment", "StatefulSet"):
        name = maker["metadata"]["name"]
        assert selected(maker["spec"]["selector"]["matchLabels"]) == {name}
    for service in overlay.of("Service"):
        assert selected(service["spec"]["selector"]) == {_pods_of(service, overlay)}
    for budget in overlay.of("PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {budget["metadata"]["name"]}
    services = {f"vashsender-{name}" for name in SERVICES}
    clusters = {maker["metadata"]["name"] for maker in overlay.of("StatefulSet") if maker["spec"]["replicas"] > 1}
    assert {budget["metadata"]["name"] for budget in overlay.of("PodDisruptionBudget")} == services | clusters
    for monitor in overlay.of("PodMonitor"):
        assert selected(monitor["spec"]["selector"]["matchLabels"]) == services
        assert all(labels[name][monitor["spec"]["jobLabel"]] == "vashsender" for name in services)
    for policy in overlay.of("NetworkPolicy"):
        peers = [
            peer for end in ("from", "to") for found in kubernetes.values_of(policy["spec"], end) for peer in found
        ]
        # Pods of other namespaces, such as the cluster's DNS, are not ours.
        ours = [peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
        for pods in (policy["spec"]["podSelector"], *ours):
            assert "matchExpressions" in pods or selected(pods.get("matchLabels", {})), policy["metadata"]["name"]


def test_everything_mounted_exists(overlay: Rendered) -> None:
    keys = {
        (one["kind"], one["metadata"]["name"]): set(one.get("data", {})) for one in overlay.of("Secret", "ConfigMap")
    }
    used = set()
    claims = {
        maker["metadata"]["name"]: [
            claim["metadata"]["name"] for claim in maker["spec"].get("volumeClaimTemplates", ())
        ]
        for maker in overlay.of("StatefulSet")
    }
    for name, pod in overlay.pods.items():
        spec = pod["spec"]
        containers = (*spec["containers"], *spec.get("initContainers", ()))
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        for container in containers:
            for mount in container.get("volumeMounts", ()):
                assert mount["name"] in (*volumes, *claims.get(name, ())), name
            for source in container.get("envFrom", ()):
                used.add(("ConfigMap", source["configMapRef"]["name"]))
        for volume in volumes.values():
            if "secret" in volume:
                used.add(("Secret", volume["secret"]["secretName"]))
            if "configMap" in volume:
                used.add(("ConfigMap", volume["configMap"]["name"]))
    for authentication in overlay.of("TriggerAuthentication"):
        for reference in authentication["spec"]["secretTargetRef"]:
            used.add(("Secret", reference["name"]))
            assert reference["key"] in keys["Secret", reference["name"]]
    assert used == keys.keys()


def test_files_named_by_settings_are_mounted(overlay: Rendered) -> None:
    for service in SERVICES:
        name = f"vashsender-{service}"
        for container in ("containers", "initContainers"):
            for variable, value in overlay.environment(name, container).items():
                if value.startswith("/run"):
                    assert overlay.is_mounted(name, value, container), (name, variable, value)


def test_each_pod_sees_only_its_own_secrets(overlay: Rendered) -> None:
    for service in SERVICES:
        seen = "".join(overlay.secret_files(f"vashsender-{service}").values())
        others = {f"vashsender_{other}:" for other in (*SERVICES, ADMIN, "owner", MONITOR) if other != service}
        assert not [other for other in others if other in seen]
        assert f"vashsender_{service}:" in seen
        assert ("smtp://" in seen) == (service == "sender")


def test_ports_have_names_that_exist(overlay: Rendered) -> None:
    ports = {
        name: {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0].get("ports", ())}
        for name, pod in overlay.pods.items()
    }
    for service in overlay.of("Service"):
        for port in service["spec"]["ports"]:
            assert ports[_pods_of(service, overlay)][port["targetPort"]] == port["port"]
    for name, pod in overlay.pods.items():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for asked in kubernetes.values_of(pod["spec"]["containers"], probe):
                assert (asked.get("httpGet") or asked["tcpSocket"])["port"] in ports[name]
    for ingress in overlay.of("Ingress"):
        for backend in kubernetes.values_of(ingress, "backend"):
            target = overlay.one("Service", backend["service"]["name"])
            assert backend["service"]["port"]["name"] in [port["name"] for port in target["spec"]["ports"]]


def test_every_container_meets_the_restricted_standard(overlay: Rendered) -> None:
    """The Pod Security Standard `restricted`, which the namespace enforces, and more."""
    assert overlay.of("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in overlay.pods.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name


def test_everything_is_in_one_namespace_and_its_images_have_versions(overlay: Rendered) -> None:
    namespace = overlay.of("Namespace")[0]["metadata"]["name"]
    for resource in overlay.resources:
        if resource["kind"] != "Namespace":
            assert resource["metadata"]["namespace"] == namespace
    for image in kubernetes.values_of([pod["spec"] for pod in overlay.pods.values()], "image"):
        assert ":" in image, image


def test_keda_alone_sets_the_number_of_senders(overlay: Rendered) -> None:
    for scaled in overlay.of("ScaledObject"):
        target = overlay.one("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
