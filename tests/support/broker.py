"""A virtual host of one's own on the run's broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from cli.local.broker import PrivateBroker
from cli.local.broker_files import ADMIN, ADMIN_RIGHTS, SERVICES, SERVICES_RIGHTS

REQUEST_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class BrokerVhost:
    """An empty virtual host with the rights of production: `services` may not configure."""

    name: str
    broker: PrivateBroker
    api: httpx.Client
    """RabbitMQ's management API as `admin`: `vhost.api.get(f"/queues/{vhost.name}/email")`."""

    @property
    def admin_url(self) -> str:
        """AMQP URL of the account that may declare topology."""
        return self.broker.amqp_url(ADMIN, self.name)

    @property
    def services_url(self) -> str:
        """AMQP URL of the account the services run on."""
        return self.broker.amqp_url(SERVICES, self.name)

    @property
    def management_url(self) -> str:
        return self.broker.management_url

    def queue(self, name: str) -> dict[str, Any]:
        """What the management API says of a queue; its counts are up to five seconds old."""
        return self._answer("GET", f"/queues/{self.name}/{name}")

    def purge(self, queue: str) -> None:
        """Throw away every ready message."""
        self._answer("DELETE", f"/queues/{self.name}/{queue}/contents")

    def unbind(self, exchange: str, queue: str) -> None:
        """Remove every binding between them, so that nothing published arrives there any more."""
        bindings = self.api.get(f"/bindings/{self.name}/e/{exchange}/q/{queue}").raise_for_status().json()
        for binding in bindings:
            self._answer("DELETE", f"/bindings/{self.name}/e/{exchange}/q/{queue}/{quote(binding['properties_key'])}")

    def close_connections(self) -> int:
        """Cut every client of this virtual host that the management API knows of (five seconds old). Gives how many."""
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
    """A virtual host that exists as long as the block."""
    name = f"test-{uuid4().hex[:12]}"
    with httpx.Client(
        base_url=f"{broker.management_url}/api",
        auth=(ADMIN, broker.password(ADMIN)),
        timeout=REQUEST_TIMEOUT_SECONDS,
        trust_env=False,
    ) as api:
        api.put(f"/vhosts/{name}").raise_for_status()
        for account, rights in ((ADMIN, ADMIN_RIGHTS), (SERVICES, SERVICES_RIGHTS)):
            api.put(f"/permissions/{name}/{account}", json=dict(rights)).raise_for_status()
        try:
            yield BrokerVhost(name, broker, api)
        finally:
            api.delete(f"/vhosts/{name}").raise_for_status()
