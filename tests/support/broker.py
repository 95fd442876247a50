"""A virtual host for one test on the shared broker."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, ADMIN_RIGHTS, SERVICES, SERVICES_RIGHTS
from tests.support.waiting import wait_for

REQUEST_TIMEOUT_SECONDS = 30.0
CREATE_TRIES = 3
RUNS_EVERYWHERE_SECONDS = 60.0


@dataclass(frozen=True)
class BrokerVhost:
    """An empty virtual host with the rights of production: `services` may not declare topology."""

    name: str
    broker: PrivateBroker
    #: RabbitMQ's management API as `admin`: `vhost.api.get(f"/queues/{vhost.name}/email")`.
    api: httpx.Client

    @property
    def admin_url(self) -> str:
        """AMQP URL of the account that may declare topology."""
        return self.broker.amqp_url(ADMIN, self.name)

    @property
    def services_url(self) -> str:
        """AMQP URL of the account that the services use."""
        return self.broker.amqp_url(SERVICES, self.name)

    @property
    def management_url(self) -> str:
        return self.broker.management_url

    def queue(self, name: str) -> dict[str, Any]:
        """A queue in the management API. Its counts are up to 5 s old."""
        return self._answer("GET", f"/queues/{self.name}/{name}")

    def purge(self, queue: str) -> None:
        """Deletes every ready message."""
        self._answer("DELETE", f"/queues/{self.name}/{queue}/contents")

    def unbind(self, exchange: str, queue: str) -> None:
        """Removes every binding between them, so that no event reaches the queue."""
        bindings = self.api.get(f"/bindings/{self.name}/e/{exchange}/q/{queue}").raise_for_status().json()
        for binding in bindings:
            self._answer("DELETE", f"/bindings/{self.name}/e/{exchange}/q/{queue}/{quote(binding['properties_key'])}")

    def close_connections(self) -> int:
        """Closes every client connection that the management API shows (up to 5 s old). Returns their number."""
        connections = self.api.get(f"/vhosts/{self.name}/connections").raise_for_status().json()
        for connection in connections:
            self._answer("DELETE", f"/connections/{quote(connection['name'], safe='')}")
        return len(connections)

    def _answer(self, method: str, path: str) -> dict[str, Any]:
        response = self.api.request(method, path).raise_for_status()
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer


@contextmanager
def new_vhost(broker: PrivateBroker) -> Iterator[BrokerVhost]:
    """A new virtual host, deleted at the end."""
    name = f"test-{uuid4().hex[:12]}"
    with httpx.Client(
        base_url=f"{broker.management_url}/api",
        auth=(ADMIN, broker.password(ADMIN)),
        timeout=REQUEST_TIMEOUT_SECONDS,
        trust_env=False,
    ) as api:
        _create(api, name)
        wait_for(lambda: _runs_everywhere(api, name), RUNS_EVERYWHERE_SECONDS)
        for account, rights in ((ADMIN, ADMIN_RIGHTS), (SERVICES, SERVICES_RIGHTS)):
            api.put(f"/permissions/{name}/{account}", json=dict(rights)).raise_for_status()
        try:
            yield BrokerVhost(name, broker, api)
        finally:
            api.delete(f"/vhosts/{name}").raise_for_status()


def _create(api: httpx.Client, name: str) -> None:
    """Creates a virtual host. A cluster that has just formed may not answer at once, so it is asked again."""
    for _ in range(CREATE_TRIES - 1):
        with suppress(httpx.ReadTimeout):
            api.put(f"/vhosts/{name}").raise_for_status()
            return
    api.put(f"/vhosts/{name}").raise_for_status()


def _runs_everywhere(api: httpx.Client, name: str) -> bool:
    """Whether each node of the cluster serves the virtual host. A node that had just joined when it was created may
    never start it by itself, and then refuses all connections to it, so such a node is asked to."""
    states: dict[str, str] = api.get(f"/vhosts/{name}").raise_for_status().json()["cluster_state"]
    nodes = [node["name"] for node in api.get("/nodes").raise_for_status().json() if node["running"]]
    missing = [node for node in nodes if states.get(node) != "running"]
    for node in missing:
        api.post(f"/vhosts/{name}/start/{node}")
    return not missing
