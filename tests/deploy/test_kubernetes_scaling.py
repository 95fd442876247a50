"""KEDA scales the senders by the real queue, backlog and held batches: from none to four, and back after the work.

Everything is real but the kubelet: a control plane, KEDA, RabbitMQ, Prometheus, and our services as processes. The test
plays the kubelet for senders: it runs as many as the Deployment has pods. `pytest -s` shows what was decided, and why.
"""

import asyncio
import base64
import copy
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from cli.local.broker_files import ADMIN
from tests.support import kubernetes
from tests.support.broker import BrokerVhost
from tests.support.kubernetes_cluster import Cluster, cluster, install_custom_resources
from tests.support.kubernetes_keda import start_keda
from tests.support.prometheus import Prometheus, prometheus, write_targets
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(1500)

NAMESPACE = "vashsender"
OBJECT = "vashsender-sender"
MOST = 4
RECIPIENTS = 12_000
BATCH_SIZE = 100
SECONDS_PER_EMAIL = 0.1
SLOW_SECONDS_PER_EMAIL = 0.8
"""At the end, held batches take longer than the autoscaler waits before it removes senders."""
BACKLOG = 1_500
"""Emails of backlog for one sender. The deployed value is for rates that no test reaches."""
TARGETS = {"s0-prometheus": BACKLOG, "s1-rabbitmq-email": 4, "s2-prometheus": 2}
"""What one sender is for, by the name that KEDA gives the trigger: emails of backlog, tickets, held batches."""
POLLING_SECONDS = 2
STABILIZATION_SECONDS = 15
PERIOD_SECONDS = 5
WAIT_SECONDS = 300.0
LOG_SECONDS = 20


@dataclass
class Kubelet:
    """Runs a sender for each pod of the Deployment, and notes what the autoscaler saw and decided."""

    cluster: Cluster
    system: System
    #: The file from which Prometheus knows whom to scrape.
    targets: Path
    started: float = field(default_factory=time.monotonic)
    seen: list[dict[str, float]] = field(default_factory=list)
    replicas: int = 0
    #: The last status of the HorizontalPodAutoscaler that KEDA made.
    autoscaler: Mapping[str, Any] = field(default_factory=dict)

    async def run(self) -> None:
        """Until it is cancelled. The api server says what changes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_deployment())
            tasks.create_task(self._follow_autoscaler())

    async def _follow_deployment(self) -> None:
        async for deployment in self.cluster.watch(f"apis/apps/v1/namespaces/{NAMESPACE}/deployments"):
            if deployment["metadata"]["name"] == OBJECT:
                await self._run_senders(deployment["status"].get("replicas", 0))

    async def _follow_autoscaler(self) -> None:
        path = f"apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
        async for found in self.cluster.watch(path):
            self.autoscaler = found.get("status", {})
            self._note()

    async def _run_senders(self, replicas: int) -> None:
        self.replicas = replicas
        self._note()
        running = sorted(name for name in self.system.processes if name.startswith("sender-"))
        for number in range(len(running) + 1, replicas + 1):
            self.system.launch("sender", f"sender-{number}")
        stopped = [self.system.processes.pop(name) for name in running[replicas:]]
        addresses = {name: one.http_url.removeprefix("http://") for name, one in self.system.processes.items()}
        write_targets(self.targets, addresses, {"namespace": NAMESPACE})
        await asyncio.gather(*(process.stop() for process in stopped))

    def _note(self) -> None:
        status = self.autoscaler
        current = status.get("currentReplicas", 0)
        # A status without a metric comes from before the first one was read.
        metrics = [one["external"] for one in status.get("currentMetrics") or () if one.get("external")]
        entry = {"replicas": self.replicas, "current": current, "desired": status.get("desiredReplicas", 0)}
        for metric in metrics:
            # The status has the average of a replica.
            entry[metric["metric"]["name"]] = number(metric["current"]["averageValue"]) * current
        if not self.seen or {**self.seen[-1], "at": 0} != {**entry, "at": 0}:
            self.seen.append({**entry, "at": round(time.monotonic() - self.started)})

    def log(self) -> str:
        """What the autoscaler had seen each time the number of replicas changed, and every 20 s."""
        lines = [f"{'seconds':>7} {'backlog':>8} {'tickets':>8} {'held':>5} {'desired':>8} {'replicas':>9}"]
        replicas, at = -1.0, 0.0
        for one in self.seen:
            if one["replicas"] != replicas or one["at"] >= at + LOG_SECONDS:
                replicas, at = one["replicas"], one["at"]
                backlog, tickets, held = (round(one.get(name, 0)) for name in TARGETS)
                lines.append(f"{at:>7} {backlog:>8,} {tickets:>8} {held:>5} {one['desired']:>8} {replicas:>9}")
        return "\n".join(lines) + "\n"


def number(text: str) -> float:
    """A number as Kubernetes writes it: `1500m` is 1.5, `2k` is 2000."""
    units = {"m": 0.001, "k": 1000.0}
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)


def scaling(rendered: kubernetes.Rendered, server: str, management_url: str) -> str:
    """The deployed component `keda`, made faster, and pointed at this machine's servers."""
    scaled = copy.deepcopy(dict(rendered.one("ScaledObject", OBJECT)))
    spec = scaled["spec"]
    spec["pollingInterval"], spec["maxReplicaCount"] = POLLING_SECONDS, MOST
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    down["stabilizationWindowSeconds"] = STABILIZATION_SECONDS
    down["policies"][0]["periodSeconds"] = PERIOD_SECONDS
    backlog, queue, held = (trigger["metadata"] for trigger in spec["triggers"])
    backlog["threshold"] = str(BACKLOG)
    for trigger in (backlog, held):
        trigger["serverAddress"] = server
    assert [int(queue["value"]), int(held["threshold"])] == list(TARGETS.values())[1:]
    authentication = rendered.one("TriggerAuthentication", "vashsender-broker")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": authentication["spec"]["secretTargetRef"][0]["name"], "namespace": NAMESPACE},
        "data": {"management_url": base64.b64encode(management_url.encode()).decode()},
    }
    return str(yaml.safe_dump_all([secret, authentication, scaled]))


def management_url(vhost: BrokerVhost) -> str:
    """The management API with an account and the virtual host, as KEDA wants it."""
    scheme, _, rest = vhost.management_url.partition("://")
    return f"{scheme}://{ADMIN}:{quote(vhost.broker.password(ADMIN), safe='')}@{rest}/{vhost.name}"


@asynccontextmanager
async def playing(kubelet: Kubelet) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(kubelet.run())
        yield
        task.cancel()


@pytest.fixture
def database_url(postgresql_url: str) -> str:
    return postgresql_url


async def test_senders_follow_the_work(
    system: System, broker_vhost: BrokerVhost, relay: RecordingRelay, tmp_path: Path
) -> None:
    relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    system.settings |= {"smtp_connections": "4", "batch_size": str(BATCH_SIZE)}
    await system.start(senders=0)
    rendered = await asyncio.to_thread(lambda: kubernetes.overlays(tmp_path / "kubernetes")["everything"])
    scraped = tmp_path / "prometheus"
    with (
        prometheus(scraped, {"rabbitmq": {}, "vashsender": {}}, broker_vhost.name) as metrics,
        cluster(tmp_path / "cluster") as running,
    ):
        await asyncio.to_thread(prepare, running, rendered)
        kubelet = Kubelet(running, system, scraped / "vashsender.json")
        address = str(metrics.http.base_url).rstrip("/")
        await asyncio.to_thread(running.apply, scaling(rendered, address, management_url(broker_vhost)))
        async with playing(kubelet):
            await grow_and_shrink(kubelet, metrics, relay)
            await from_none_and_back(kubelet)
    sys.stdout.write(f"\n{kubelet.log()}")
    assert_right_numbers(kubelet.seen)
    assert relay.duplicates == 0


def prepare(running: Cluster, rendered: kubernetes.Rendered) -> None:
    """Custom resources, KEDA, the namespace, and the sender's Deployment with no replica."""
    install_custom_resources(running)
    start_keda(running)
    sender = copy.deepcopy(dict(rendered.one("Deployment", OBJECT)))
    sender["spec"]["replicas"] = 0
    needed = [*rendered.of("Namespace", "ServiceAccount", "ConfigMap", "Secret")]
    running.apply(str(yaml.safe_dump_all(needed)))
    running.apply(yaml.safe_dump(sender))


async def grow_and_shrink(kubelet: Kubelet, metrics: Prometheus, relay: RecordingRelay) -> None:
    """From none to the least, to the most for a campaign, and back to the least once it is out."""
    await until(lambda: kubelet.replicas == 1, WAIT_SECONDS)
    campaign = await kubelet.system.create(RECIPIENTS)
    await kubelet.system.send(campaign)
    await until(lambda: kubelet.replicas == MOST, WAIT_SECONDS)
    backlog = "max(vashsender_backlog_emails)"
    await until(lambda: asyncio.to_thread(lambda: metrics.value(backlog) == 0), WAIT_SECONDS)
    relay.behaviour.seconds_per_email = SLOW_SECONDS_PER_EMAIL
    await sent(kubelet.system, campaign, RECIPIENTS)
    await until(lambda: kubelet.replicas == 1, WAIT_SECONDS)


async def from_none_and_back(kubelet: Kubelet) -> None:
    """With `minReplicaCount: 0`, as the documentation says: none without work, one for a small campaign."""
    change = {"spec": {"minReplicaCount": 0, "cooldownPeriod": 2 * POLLING_SECONDS}}
    arguments = ("patch", "scaledobject", OBJECT, f"--namespace={NAMESPACE}", "--type=merge", "-p", json.dumps(change))
    done = await asyncio.to_thread(kubelet.cluster.kubectl, *arguments)
    assert done.returncode == 0, done.stderr
    await until(lambda: kubelet.replicas == 0, WAIT_SECONDS)
    campaign = await kubelet.system.create([f"one-of-few-{number}@example.test" for number in range(BATCH_SIZE)])
    await kubelet.system.send(campaign)
    await sent(kubelet.system, campaign, BATCH_SIZE)
    await until(lambda: kubelet.replicas == 0, WAIT_SECONDS)


async def sent(system: System, campaign: str, recipients: int) -> None:
    """Everyone has got the email."""
    done = await system.wait_closed(campaign, 2 * WAIT_SECONDS)
    assert done["counts"]["sent"] == recipients
    assert (await system.reconcile(campaign)).lost == 0


def assert_right_numbers(seen: Sequence[Mapping[str, float]]) -> None:
    """No decision is for fewer senders than what the autoscaler saw needs. It tolerates 10 % too few."""
    judged = 0
    for entry in seen:
        for name, target in TARGETS.items():
            if name in entry and entry["current"]:
                needed = math.ceil(entry[name] / target / 1.1)
                assert entry["desired"] >= min(needed, MOST), entry
                judged += 1
    assert judged
