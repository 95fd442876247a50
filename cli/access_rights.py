"""The broker accounts of an installation, and what each may do: one per service, with no more than it needs.

Nobody but `admin` may declare anything, and `admin` may declare only what VashSender has. What a service may publish
is bound by routing key (RabbitMQ's topic permissions), so none can speak for another.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence

from shared import events, topology

VHOST = "vashsender"
SERVICES = ("api", "dispatcher", "sender", "watchdog")
ADMIN = "admin"
"""Declares topology, purges, reads and replays the dead: the operator's command."""
MONITOR = "monitor"
"""Reads queue depths through the management API: an autoscaler."""

PUBLISHES: Mapping[str, Sequence[type[events.Event]]] = {
    "api": (events.CampaignRequested,),
    "dispatcher": (events.BatchReleased, events.BatchRequeued, events.CampaignFinished),
    "sender": (events.BatchFinished, events.BatchRequeued, events.CampaignRequested, events.SenderHeartbeat),
    "watchdog": (events.BatchRequeued, events.CampaignRequested),
}
CONSUMES: Mapping[str, Sequence[str]] = {
    "api": (),
    "dispatcher": (topology.CAMPAIGNS, topology.DEFAULT),
    "sender": (topology.EMAIL,),
    "watchdog": (topology.HEARTBEATS,),
}

NOTHING = "^$"
_EXCHANGES = (topology.EXCHANGE, topology.DEAD_EXCHANGE)
_QUEUES = (*(queue.name for queue in topology.QUEUES), topology.DEAD)


def account(role: str) -> str:
    """The name of a role's account, on the broker as in the database."""
    return f"vashsender_{role}"


def definitions(passwords: Mapping[str, str]) -> dict[str, object]:
    """What RabbitMQ loads (`load_definitions`): accounts with hashed passwords, the virtual host, rights; no topology.

    `passwords` by role: every service, `admin`, `monitor`."""
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
    }


def permissions(role: str) -> dict[str, str]:
    """Regular expressions over names of exchanges and queues."""
    if role == ADMIN:
        ours = _one_of((*_EXCHANGES, *_QUEUES))
        return {"configure": ours, "write": ours, "read": ours}
    if role not in SERVICES:
        return {"configure": NOTHING, "write": NOTHING, "read": NOTHING}
    return {"configure": NOTHING, "write": _one_of((topology.EXCHANGE,)), "read": _one_of(CONSUMES[role])}


def topic_permissions(role: str) -> dict[str, str]:
    """A regular expression over routing keys; nobody but `admin` binds, so nobody reads by topic."""
    return {"write": _one_of([event.ROUTING_KEY for event in PUBLISHES[role]]), "read": NOTHING}


def password_hash(password: str) -> str:
    """RabbitMQ's salted SHA-256: base64 of four bytes of salt and the digest of salt and password."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _one_of(names: Sequence[str]) -> str:
    return f"^({'|'.join(name.replace('.', '[.]') for name in names)})$" if names else NOTHING
