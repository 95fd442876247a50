"""The examples of a three-node broker, for Compose and for Kubernetes: valid, hardened, and the same cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.access_files import Servers, write
from tests.support import compose, kubernetes

FILE = compose.FOLDER / "broker-cluster.yaml"
OVERRIDE: dict[str, Any] = compose.load(file=FILE)
NODES = OVERRIDE["services"]
COMPONENT = kubernetes.FOLDER / "components" / "broker-cluster"


def configuration(path: Path) -> dict[str, str]:
    lines = (line.partition(" = ") for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def nodes_of(settings: dict[str, str]) -> list[str]:
    return [value for name, value in sorted(settings.items()) if name.startswith("cluster_formation.classic_config.")]


def test_the_override_is_valid_by_the_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_nodes_are_those_of_the_configuration_and_share_one_name() -> None:
    hosts = [node["hostname"] for node in NODES.values()]
    assert nodes_of(configuration(compose.FOLDER / "broker-cluster.conf")) == [f"rabbit@{host}" for host in hosts]
    for name, node in NODES.items():
        names = {name, *node["networks"]["inside"]["aliases"]}
        assert {"rabbitmq", node["hostname"]} <= names


def test_a_further_node_is_like_the_first() -> None:
    """Compose replaces lists and merges the rest, so the first node needs only what differs."""
    base = compose.load()["services"]["rabbitmq"]
    first = {**base, **NODES["rabbitmq"]}
    for name in ("rabbitmq-2", "rabbitmq-3"):
        node = NODES[name]
        assert node.keys() == first.keys()
        for key in first.keys() - {"hostname", "networks", "volumes"}:
            assert node[key] == first[key], key
        assert node["volumes"][1:] == first["volumes"][1:]
        assert all((compose.FOLDER / volume.split(":")[0]).exists() for volume in node["volumes"][1:])


def test_every_secret_is_written_by_access_new(tmp_path: Path) -> None:
    written = {path.name for path in write(tmp_path / "secrets", Servers("rabbitmq", "postgres"))}
    assert {Path(secret["file"]).name for secret in OVERRIDE["secrets"].values()} <= written
    text = (COMPONENT / "kustomization.yaml").read_text() + (COMPONENT / "nodes.yaml").read_text()
    assert "cookie" in text


def test_kubernetes_runs_the_same_cluster() -> None:
    ours = configuration(COMPONENT / "rabbitmq.conf")
    theirs = configuration(compose.FOLDER / "broker-cluster.conf")
    for name in theirs:
        if not name.startswith("cluster_formation.classic_config."):
            assert ours[name] == theirs[name], name
    stateful = next(one for one in kubernetes.documents(COMPONENT / "nodes.yaml") if one["kind"] == "StatefulSet")
    spec = stateful["spec"]
    assert nodes_of(ours) == [f"rabbit@rabbitmq-{number}.{spec['serviceName']}" for number in range(spec["replicas"])]
