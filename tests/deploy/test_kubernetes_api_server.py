"""Applies deploy/kubernetes to a real API server: strict validation, no warning, and the admission of every pod."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support import kubernetes
from tests.support.kubernetes import Rendered, Resource
from tests.support.kubernetes_cluster import START_SECONDS, Cluster, cluster, install_custom_resources
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

NAMESPACES = {
    "development": "vashsender-development",
    "production": "vashsender",
    "everything": "vashsender-everything",
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Rendered]:
    return kubernetes.overlays(tmp_path_factory.mktemp("rendered") / "kubernetes")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "cluster") as running:
        install_custom_resources(running)
        yield running


def in_namespace(overlay: Rendered, namespace: str) -> str:
    """The resources of an overlay, in another namespace than the overlay's if two overlays share one."""
    text = yaml.safe_dump_all(overlay.resources)
    [own] = [one["metadata"]["name"] for one in overlay.of("Namespace")]
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        if document["kind"] == "Namespace" and document["metadata"]["name"] == own:
            document["metadata"]["name"] = namespace
        elif document["metadata"].get("namespace") == own:
            document["metadata"]["namespace"] = namespace
    return str(yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", kubernetes.OVERLAYS)
def test_an_overlay_is_accepted_without_a_warning_and_every_pod_is_admitted(
    running: Cluster, rendered: Mapping[str, Rendered], name: str
) -> None:
    namespace = NAMESPACES[name]
    text = in_namespace(rendered[name], namespace)
    first = running.apply(text)
    assert first.count("serverside-applied") == len(rendered[name].resources)
    # An apply repeated is accepted as well: nothing that cannot be changed differs.
    assert running.apply(text) == first
    for maker in rendered[name].of("Deployment", "StatefulSet", "Job"):
        kind, own = maker["kind"].lower(), maker["metadata"]["name"]
        # Without a kubelet no pod becomes ready, so a StatefulSet that starts them in order creates only the first.
        in_order = kind == "statefulset" and maker["spec"].get("podManagementPolicy") != "Parallel"
        wanted = 1 if kind == "job" or in_order else maker["spec"].get("replicas", 1)

        def admitted(kind: str = kind, own: str = own, wanted: int = wanted) -> bool:
            status = running.get(kind, own, f"--namespace={namespace}")["status"]
            return bool(status.get("active" if kind == "job" else "replicas", 0) == wanted)

        def events(own: str = own) -> str:
            return f"{own}: {running.kubectl('get', 'events', '-n', namespace).stdout}"

        wait_until(admitted, events, START_SECONDS)
    refused = running.get("events", f"--namespace={namespace}", "--field-selector=reason=FailedCreate")["items"]
    assert [event["message"] for event in refused] == []


def test_what_is_wrong_is_refused(running: Cluster) -> None:
    """The checks above would see it: a pod with too many rights, and a misspelled field."""
    namespace = "refuses"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    running.apply(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy", "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]},
    }
    with pytest.raises(AssertionError, match='violates PodSecurity "restricted:latest"'):
        running.apply(yaml.safe_dump(pod))
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "misspelled", "namespace": namespace},
        "dta": {},
    }
    with pytest.raises(AssertionError, match="dta"):
        running.apply(yaml.safe_dump(settings))


def test_kubectl_renders_what_the_standalone_kustomize_does(running: Cluster, tmp_path: Path) -> None:
    """`kubectl apply -k`, as the documentation says, applies what the test above did."""
    kubernetes.overlays(tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "production"
    done = running.kubectl("kustomize", str(overlay))
    assert (done.returncode, done.stderr) == (0, "")

    def by_name(resources: Iterable[Resource]) -> list[Resource]:
        return sorted(resources, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert by_name(yaml.safe_load_all(done.stdout)) == by_name(kubernetes.render(overlay).resources)
