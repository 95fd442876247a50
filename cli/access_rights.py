"""The broker accounts of an installation and their rights: one account per service, with only the rights it needs.

Only `admin`, the account of the operator's command, may declare anything, and only VashSender's topology. Topic
permissions limit each service to the routing keys that it publishes, so no service can publish another's events.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence

from shared import topology
from shared.reception import ADMIN, PUBLISHES

VHOST = "vashsender"
SERVICES = ("api", "dispatcher", "feedback", "sender", "watchdog", "webhooks")
MONITOR = "monitor"
"""For an autoscaler: reads queue depths through the management API."""

CONSUMES: Mapping[str, Sequence[str]] = {
    "api": (),
    "dispatcher": (topology.CAMPAIGNS, topology.DEFAULT),
    "feedback": (),
    "sender": (topology.EMAIL,),
    "watchdog": (topology.HEARTBEATS,),
    "webhooks": (),
}

NOTHING = "^$"
PUBLISHER = "webhooks"
"""The service that publishes the events of projects."""
_EXCHANGES = (topology.EXCHANGE, topology.DEAD_EXCHANGE, topology.EVENTS_EXCHANGE)
_QUEUES = (*(queue.name for queue in topology.QUEUES), topology.DEAD)


def account(role: str) -> str:
    """The name of a role's account, the same on broker and database."""
    return f"vashsender_{role}"


def definitions(passwords: Mapping[str, str]) -> dict[str, object]:
    """The definitions that RabbitMQ loads (`load_definitions`): accounts with hashed passwords, virtual host, rights.

    `passwords` by role: every service, `admin` and `monitor`."""
    return {
        "users": [
            {
                "name": account(role),
                "password_hash": password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["management"] if role == MONITOR else [],
            }
            for role, password in passwords.items()
        ],
        "vhosts": [{"name": VHOST}],
        "permissions": [{"user": account(role), "vhost": VHOST, **permissions(role)} for role in passwords],
        "topic_permissions": [
            {"user": account(role), "vhost": VHOST, "exchange": topology.EXCHANGE, **topic_permissions(role)}
            for role in SERVICES
        ],
        "policies": [consumer_policy()],
    }


def consumer_policy() -> dict[str, object]:
    """Limits the queues of programs outside, so that one that nothing reads does not fill the broker's disk."""
    return {
        "vhost": VHOST,
        "name": "vashsender-events",
        "pattern": f"^{topology.CONSUMER_QUEUES.replace('.', '[.]')}",
        "apply-to": "queues",
        "priority": 0,
        "definition": {
            "max-length": topology.EVENTS_KEPT,
            "max-length-bytes": topology.EVENTS_KEPT_BYTES,
            "overflow": "drop-head",
        },
    }


def permissions(role: str) -> dict[str, str]:
    """A role's permissions, as regular expressions for names of exchanges and queues."""
    if role == ADMIN:
        ours = _one_of((*_EXCHANGES, *_QUEUES))
        return {"configure": ours, "write": ours, "read": ours}
    if role not in SERVICES:
        return {"configure": NOTHING, "write": NOTHING, "read": NOTHING}
    exchange = topology.EVENTS_EXCHANGE if role == PUBLISHER else topology.EXCHANGE
    return {"configure": NOTHING, "write": _one_of((exchange,)), "read": _one_of(CONSUMES[role])}


def topic_permissions(role: str) -> dict[str, str]:
    """A role's topic permissions, as regular expressions for routing keys. No role reads by topic."""
    keys = [event.ROUTING_KEY for event in PUBLISHES[role]]
    if topology.WITHOUT_DEAD_LETTERS & set(CONSUMES[role]):
        keys.append(topology.REFUSED_KEY)
    return {"write": _one_of(keys), "read": NOTHING}


def password_hash(password: str) -> str:
    """RabbitMQ's salted SHA-256: base64 of four bytes of salt and the digest of salt and password."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _one_of(names: Sequence[str]) -> str:
    return f"^({'|'.join(name.replace('.', '[.]') for name in names)})$" if names else NOTHING
