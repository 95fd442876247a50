"""KEDA's operator and metrics server beside a control plane of kubernetes_cluster.py."""

import yaml

from cli.local.ports import free_port
from tests.support.kubernetes_cluster import Cluster, binaries

PROGRAMS = ("keda-operator", "keda-adapter")
NAMESPACE = "keda"
METRICS = "v1beta1.external.metrics.k8s.io"
HOUSEKEEPING = {"WATCH_NAMESPACE": "", "POD_NAMESPACE": NAMESPACE, "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE}


def start_keda(cluster: Cluster) -> None:
    """Starts both, and returns when the API server has the metrics. KEDA's custom resources must be installed."""
    binaries(PROGRAMS)
    certificates = cluster.folder / "keda"
    certificates.mkdir()
    for name, source in (("ca.crt", cluster.certificate), ("tls.crt", cluster.certificate), ("tls.key", cluster.key)):
        (certificates / name).write_bytes(source.read_bytes())
    service, adapter, health = free_port(), free_port(), free_port()
    cluster.apply(_resources(adapter))
    cluster.launch(
        "keda-operator",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--cert-dir={certificates}",
        f"--metrics-service-bind-address=127.0.0.1:{service}",
        f"--metrics-bind-address=127.0.0.1:{free_port()}",
        f"--health-probe-bind-address=127.0.0.1:{health}",
        environment=HOUSEKEEPING,
    )
    cluster.wait_ready("keda-operator", f"http://127.0.0.1:{health}/healthz")
    cluster.launch(
        "keda-adapter",
        f"--secure-port={adapter}",
        "--bind-address=127.0.0.1",
        f"--port={free_port()}",
        f"--metrics-service-address=localhost:{service}",
        f"--lister-kubeconfig={cluster.kubeconfig}",
        f"--authentication-kubeconfig={cluster.kubeconfig}",
        f"--authorization-kubeconfig={cluster.kubeconfig}",
        f"--tls-cert-file={certificates / 'tls.crt'}",
        f"--tls-private-key-file={certificates / 'tls.key'}",
        f"--cert-dir={certificates}",
        environment={**HOUSEKEEPING, "KUBECONFIG": str(cluster.kubeconfig)},
    )
    done = cluster.kubectl("wait", "--for=condition=Available", "--timeout=120s", f"apiservice/{METRICS}")
    assert done.returncode == 0, f"{done.stderr}\n{cluster.log_tail('keda-adapter')}"


def _resources(port: int) -> str:
    """How the API server finds the metrics server: by the name `localhost`, because no pod runs it."""
    name = "keda-metrics-apiserver"
    resources: str = yaml.safe_dump_all(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": METRICS},
                "spec": {
                    "service": {"name": name, "namespace": NAMESPACE, "port": port},
                    "group": METRICS.partition(".")[2],
                    "version": METRICS.partition(".")[0],
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                },
            },
        ]
    )
    return resources
