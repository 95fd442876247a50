"""Three RabbitMQ nodes as one cluster on this machine, whose links can be cut without root.

Each node reaches each other node through a separate proxy: its host file gives `node2` another loopback address than
the host file of the next node does. Cutting those proxies is what a cut network looks like to the nodes: bytes vanish,
and nothing closes.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, SERVICES, VHOST, write_node_files
from cli.local.ports import LOOPBACK, free_port, free_ports
from shared.secret_files import secret_in
from tests.support.proxy import Proxy

NODES = 3
PORTS_PER_NODE = 4
NET_TICK_SECONDS = 8  # a cut node is noticed within 5/4 of it; docs/high-availability.md recommends 15
START_SECONDS = 240.0  # three nodes on a busy machine
POLL_SECONDS = 0.2


class ClusterNode(PrivateBroker):
    """One node. `kill` leaves the epmd that all nodes share; `stop` of the first node ends it."""

    def __init__(self, cluster: "BrokerCluster", number: int, ports: Sequence[int], epmd_port: int) -> None:
        folder = Path(f"{cluster.folder}-node{number}")
        amqp, management, prometheus, dist = ports
        super().__init__(folder, amqp, management, prometheus, dist, epmd_port, node_name=f"mq{number}@node{number}")
        self.number = number
        self.cluster = cluster

    def prepare(self) -> None:
        write_node_files(
            self.data_dir,
            {
                "amqp_port": self.amqp_port,
                "management_port": self.management_port,
                "prometheus_port": self.prometheus_port,
            },
        )
        conf = self.data_dir / "conf"
        (conf / "conf.d").mkdir(exist_ok=True)
        members = "".join(
            f"cluster_formation.classic_config.nodes.{node.number} = {node.node_name}\n" for node in self.cluster.nodes
        )
        (conf / "conf.d" / "cluster.conf").write_text(
            "cluster_formation.peer_discovery_backend = classic_config\n"
            f"{members}"
            "cluster_partition_handling = pause_minority\n"
            f"net_ticktime = {NET_TICK_SECONDS}\n"
        )
        hosts = {self.cluster.address(self.number, node.number): [node.host] for node in self.cluster.nodes}
        hosts[LOOPBACK].append("localhost")  # a second entry for an address would replace the first
        lines = [f"{{host,{{{ip.replace('.', ',')}}},{json.dumps(names)}}}." for ip, names in hosts.items()]
        (conf / "inetrc").write_text("\n".join([*lines, "{lookup,[file,native]}.\n"]))

    def start(self) -> None:
        """While it starts, a node checks that its port is free on every address, so its links are opened afterwards."""
        self.cluster.close_links_to(self)
        super().start()
        self.cluster.wait(self._is_registered, START_SECONDS, f"{self.node_name} has not started")
        self.cluster.open_links_to(self)

    def wait_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        super().wait_ready(timeout_seconds)

    def amqp_url(self, account: str = SERVICES, vhost: str = VHOST) -> str:
        """The URL of the whole cluster."""
        return self.cluster.amqp_url(account, vhost)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "ERL_EPMD_ADDRESS": ",".join(self.cluster.all_addresses())}

    @property
    def host(self) -> str:
        return f"node{self.number}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the node, such as SIGSTOP."""
        for process in self._node():
            process.send_signal(number)

    def _is_registered(self) -> bool:
        names = subprocess.run(["epmd", "-names"], env=self.environment(), capture_output=True, text=True, check=False)
        return f"name mq{self.number} at port {self.dist_port}" in names.stdout


class BrokerCluster:
    """Three nodes that pause in a minority. Start and stop it, and use its nodes and proxies to break it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        epmd_port, ports = free_port(), free_ports(NODES * PORTS_PER_NODE)
        self.nodes = [
            ClusterNode(self, number + 1, ports[number * PORTS_PER_NODE :][:PORTS_PER_NODE], epmd_port)
            for number in range(NODES)
        ]
        #: What node `i` reaches node `j` through, by (i, j).
        self._links: dict[tuple[int, int], Proxy] = {}
        #: What clients reach each node through, in the order of `nodes`.
        self.doors: list[Proxy] = []

    # Addresses

    def address(self, one: int, other: int) -> str:
        """The loopback address at which node `one` looks for node `other`; its own is the usual one."""
        return LOOPBACK if one == other else f"127.1.{one}.{other}"

    def all_addresses(self) -> list[str]:
        return sorted({self.address(one.number, other.number) for one in self.nodes for other in self.nodes})

    def amqp_url(self, account: str = SERVICES, vhost: str = VHOST) -> str:
        """A URL with the hosts of all nodes, through their doors."""
        hosts = ",".join(f"{LOOPBACK}:{door.port}" for door in self.doors)
        return f"amqp://{account}:{self.nodes[0].password(account)}@{hosts}/{vhost}"

    # Starting and stopping

    def start(self) -> None:
        """Starts the nodes, and returns when they are one cluster."""
        first = self.nodes[0]
        for node in self.nodes:
            # The accounts of whichever node starts last hold for all.
            for secret in (f"secrets/{ADMIN}", f"secrets/{SERVICES}", "home/.erlang.cookie"):
                (node.data_dir / secret).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if node is not first:
                    _copy_secret(first.data_dir / secret, node.data_dir / secret)
                else:
                    secret_in(node.data_dir / secret)
        for node in self.nodes:
            node.prepare()
        subprocess.run(["epmd", "-daemon"], env=first.environment(), check=True)
        for node in self.nodes:
            door = Proxy(node.amqp_port)
            door.start()
            self.doors.append(door)
        first.start()
        first.wait_ready()
        for node in self.nodes[1:]:
            node.start()
        for node in self.nodes[1:]:
            node.wait_ready()
        self.wait_whole()

    def stop(self) -> None:
        """Ends the nodes without grace: their data is thrown away."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.stop()
        for proxy in (*self._links.values(), *self.doors):
            proxy.stop()

    # Looking

    def wait_whole(self) -> None:
        """Returns when every node runs and sees the other two."""
        self.wait(
            lambda: all(len(self.seen_by(node)) == NODES for node in self.nodes),
            START_SECONDS,
            "the nodes are not one cluster",
        )

    def seen_by(self, node: ClusterNode) -> set[str]:
        """The names of the nodes that a node takes for running; empty if it gives no answer."""
        try:
            return {str(each["name"]) for each in self.ask(node, "/nodes") if each.get("running")}
        except httpx.HTTPError:
            return set()

    def leader(self, vhost: str, queue: str) -> ClusterNode:
        """The node that leads a quorum queue."""
        name = self.ask(self.nodes[0], f"/queues/{vhost}/{queue}")["leader"]
        return next(node for node in self.nodes if node.node_name == name)

    def ask(self, node: ClusterNode, path: str) -> Any:
        """The answer of a node's management API."""
        answer = httpx.get(
            f"{node.management_url}/api{path}", auth=(ADMIN, node.password(ADMIN)), timeout=5, trust_env=False
        )
        return answer.raise_for_status().json()

    def wait(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{otherwise} after {seconds:g} s")
            time.sleep(POLL_SECONDS)

    # Breaking

    def isolate(self, node: ClusterNode, *, from_clients: bool = False) -> None:
        """Cuts a node off from the other two, and from its clients too if `from_clients`."""
        for pair, link in self._links.items():
            if node.number in pair:
                link.cut()
        if from_clients:
            self.doors[node.number - 1].cut()

    def rejoin(self) -> None:
        """Restores every link."""
        for proxy in (*self._links.values(), *self.doors):
            proxy.restore()

    def close_links_to(self, node: ClusterNode) -> None:
        for pair in [pair for pair in self._links if pair[1] == node.number]:
            self._links.pop(pair).stop()

    def open_links_to(self, node: ClusterNode) -> None:
        for other in self.nodes:
            if other is not node:
                link = Proxy(node.dist_port, self.address(other.number, node.number), node.dist_port)
                link.start()
                self._links[other.number, node.number] = link


def _copy_secret(source: Path, target: Path) -> None:
    if not target.exists():
        target.write_text(source.read_text())
        target.chmod(0o400)
