"""A Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager.

No kubelet runs, so pods are created and admitted but never start. The binaries are built once by
`scripts/kubernetes-binaries`, because it takes long.
"""

import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cli.local import packages
from cli.local.ports import free_port
from tests.support.kubernetes import ROOT
from tests.support.smtp.certificates import certificate_for_localhost

SETTING = "KUBERNETES_BINARIES"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kubectl")
TOKEN = "only-for-a-test-on-loopback"
START_SECONDS = 120.0
POLL_SECONDS = 0.25
STOP_SECONDS = 20.0


def binaries(programs: Sequence[str] = PROGRAMS) -> Path:
    """The folder that `scripts/kubernetes-binaries` has filled. Fails if one of the programs is missing."""
    folder = Path(os.environ.get(SETTING, ROOT / "var" / "kubernetes"))
    missing = [name for name in programs if not (folder / name).exists()]
    if missing:
        pytest.fail(
            f"{folder} has no {', '.join(missing)}. Run scripts/kubernetes-binaries first (about 30 minutes on two "
            f"cores), or name a folder that has them with {SETTING}."
        )
    return folder


@dataclass
class Cluster:
    """A running control plane."""

    folder: Path
    programs: Path
    certificate: Path
    key: Path
    port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def kubectl(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as the cluster's administrator. The caller judges the result."""
        environment = {"KUBECONFIG": str(self.kubeconfig), "PATH": os.environ["PATH"], "HOME": str(self.folder)}
        return subprocess.run(
            [self.programs / "kubectl", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    def get(self, *arguments: str) -> Any:
        """The JSON of `kubectl get ARGUMENTS`."""
        done = self.kubectl("get", *arguments, "--output=json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def watch(self, path: str) -> AsyncIterator[Any]:
        """The resources at a path such as `apis/apps/v1/namespaces/x/deployments`, then each again when it changes."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx.AsyncClient(verify=context, trust_env=False, headers=headers, timeout=None) as client,
            client.stream("GET", f"{self.url}/{path}", params={"watch": "true"}) as answer,
        ):
            assert answer.is_success, answer.status_code
            async for line in answer.aiter_lines():
                event = json.loads(line)
                assert event["type"] != "ERROR", event
                yield event["object"]
        raise AssertionError(f"the api server ended the watch of {path}")

    def apply(self, text: str) -> str:
        """Applies resources on the server with strict validation, and returns what kubectl said. Fails on a warning."""
        done = self.kubectl(
            "apply", "--server-side", "--validate=strict", "--warnings-as-errors", "-f", "-", given=text
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{self.log_tail('kube-apiserver')}"
        return done.stdout

    def launch(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        program = self.programs / name if (self.programs / name).exists() else Path(name)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **(environment or {})},
            )

    def wait_ready(self, name: str, url: str) -> None:
        """Until the program answers 200 at a URL."""
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(verify=False, trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            while True:
                try:
                    if http.get(url).is_success:
                        return
                except httpx.HTTPError:
                    pass
                if self.running[name].poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{name} did not start: {self.log_tail(name)}")
                time.sleep(POLL_SECONDS)

    def log_tail(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A control plane with an empty etcd, ready."""
    folder.mkdir()
    if shutil.which("etcd") is None:
        packages.ensure(["etcd-server"])
    certificate = certificate_for_localhost(folder)
    found = Cluster(folder, binaries(), certificate.certificate, certificate.key)
    found.kubeconfig.write_text(_kubeconfig(found))
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    try:
        etcd = _start_etcd(found)
        _start_apiserver(found, etcd)
        _start_controllers(found)
        yield found
    finally:
        found.stop()


def _kubeconfig(cluster: Cluster) -> str:
    return str(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": "c", "cluster": {"server": cluster.url, "certificate-authority": str(cluster.certificate)}}
                ],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )


def _start_etcd(cluster: Cluster) -> str:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    cluster.launch(
        "etcd",
        f"--data-dir={cluster.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    )
    cluster.wait_ready("etcd", f"{client}/health")
    return client


def _start_apiserver(cluster: Cluster, etcd: str) -> None:
    certificate, key = str(cluster.certificate), str(cluster.key)
    cluster.launch(
        "kube-apiserver",
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={cluster.port}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--token-auth-file={cluster.folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={certificate}",
        f"--service-account-signing-key-file={key}",
        # With these the api server proves itself to KEDA's, which answers for the metrics.
        f"--proxy-client-cert-file={certificate}",
        f"--proxy-client-key-file={key}",
        f"--requestheader-client-ca-file={certificate}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    )
    cluster.wait_ready("kube-apiserver", f"{cluster.url}/readyz")


def _start_controllers(cluster: Cluster) -> None:
    port = free_port()
    cluster.launch(
        "kube-controller-manager",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--authentication-kubeconfig={cluster.kubeconfig}",
        f"--authorization-kubeconfig={cluster.kubeconfig}",
        f"--service-account-private-key-file={cluster.key}",
        f"--root-ca-file={cluster.certificate}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--horizontal-pod-autoscaler-sync-period=2s",
    )
    cluster.wait_ready("kube-controller-manager", f"https://localhost:{port}/healthz")


def custom_resources(programs: Path) -> Sequence[Path]:
    """The definitions of the resources that belong to KEDA and to the Prometheus operator."""
    found = sorted((programs / "crds").glob("*.yaml"))
    assert found, f"{programs / 'crds'} is empty: run scripts/kubernetes-binaries"
    return found


def install_custom_resources(cluster: Cluster) -> None:
    for path in custom_resources(cluster.programs):
        cluster.apply(path.read_text())
    done = cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    assert done.returncode == 0, done.stderr
