"""Replicas of the queues in a cluster of brokers. AMQP does not show them, the management API does."""

import asyncio
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx

from shared.broker_url import hosts_of
from shared.errors import UnavailableError
from shared.queues import NAMES
from shared.tls import trusting

MOST_WANTED = 3
"""Replicas that RabbitMQ gives a new queue in a cluster of at least so many nodes."""
ANSWER_SECONDS = 5.0


async def replicas(management_url: str, ca_file: Path | None) -> Mapping[str, Sequence[str]]:
    """The nodes that have a replica of each queue of ours. Needs an account with the tag `management`.

    The URL is such as `https://monitor:PASSWORD@rabbitmq:15671/vashsender`, and its path is the virtual host. Raises
    UnavailableError."""
    parts = urlsplit(management_url)
    url = parts._replace(
        netloc=parts.netloc.rpartition("@")[2], path=f"/api/queues/{quote(vhost_of(management_url), safe='')}"
    ).geturl()
    try:
        async with httpx.AsyncClient(
            auth=(parts.username or "", parts.password or ""),
            timeout=ANSWER_SECONDS,
            trust_env=False,
            verify=trusting(ca_file),
        ) as client:
            queues = (await client.get(url)).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise UnavailableError(f"the management API cannot be used: {error or type(error).__name__}") from error
    return {queue["name"]: queue.get("members", []) for queue in queues if queue["name"] in NAMES}


async def nodes_named(amqp_url: str) -> int:
    """How many addresses an AMQP URL leads to, of the kind (IPv4 or IPv6) that it has more of."""
    loop = asyncio.get_running_loop()
    found: set[tuple[int, str, int]] = set()
    for host, port in hosts_of(amqp_url):
        try:
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue
        found |= {(family, str(address[0]), port) for family, _, _, _, address in answers}
    return max(Counter(family for family, _, _ in found).values(), default=1)


def short(members: Mapping[str, Sequence[str]], nodes: int) -> Mapping[str, int]:
    """The number of replicas of each queue that has too few for a cluster of at least so many nodes."""
    known = {node for nodes_of_queue in members.values() for node in nodes_of_queue}
    wanted = min(MOST_WANTED, max(nodes, len(known)))
    return {queue: len(found) for queue, found in members.items() if len(found) < wanted}


def vhost_of(management_url: str) -> str:
    return urlsplit(management_url).path.strip("/") or "/"
