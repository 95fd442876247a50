"""The files of a private RabbitMQ node: configuration, accounts, secrets.

RabbitMQ loads accounts and the virtual host from a definitions file at every start. That avoids `rabbitmqctl` (two
seconds per call) and resets rights that someone changed by hand.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

from cli.access_rights import consumer_policy, password_hash
from shared import topology
from shared.secret_files import secret_in, write_private

VHOST = "vashsender"
ADMIN = "admin"
SERVICES = "services"
TEMPLATE = Path(__file__).with_name("files") / "rabbitmq.conf"
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")
QUEUE_NAMES = (*(queue.name for queue in topology.QUEUES), topology.DEAD)

ADMIN_RIGHTS: Mapping[str, str] = {"configure": ".*", "write": ".*", "read": ".*"}
SERVICES_RIGHTS: Mapping[str, str] = {
    "configure": "^$",
    "write": f"^({topology.EXCHANGE}|{topology.EVENTS_EXCHANGE.replace('.', '[.]')})$",
    "read": f"^({'|'.join(QUEUE_NAMES)})$",
}
"""The services' account may publish to the exchanges and consume the known queues, but declare nothing."""


def write_node_files(folder: Path, ports: Mapping[str, int]) -> None:
    """Writes every file that a node with `node_environment(folder, ...)` reads.

    `ports`: `amqp_port`, `management_port`, `prometheus_port`."""
    for name in ("", "home", "log", "mnesia", "conf"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    definitions = folder / "conf" / "definitions.json"
    configuration = Template(TEMPLATE.read_text()).substitute(ports, definitions=definitions)
    (folder / "conf" / "rabbitmq.conf").write_text(configuration)
    (folder / "conf" / "enabled_plugins").write_text(f"[{','.join(PLUGINS)}].\n")
    # The node is named ...@localhost, which a machine without /etc/hosts could not resolve.
    (folder / "conf" / "inetrc").write_text('{host,{127,0,0,1},["localhost"]}.\n{lookup,[file,native]}.\n')
    write_private(definitions, json.dumps(_definitions(folder), indent=2))
    secret_in(folder / "home" / ".erlang.cookie")


def password(folder: Path, account: str) -> str:
    """The password of `admin` or `services`. The first call generates it, in a file with mode 0600."""
    return secret_in(folder / "secrets" / account)


def node_environment(folder: Path, node_name: str, dist_port: int, epmd_port: int) -> dict[str, str]:
    """The node's whole environment, so that no RabbitMQ variable set elsewhere leaks in."""
    conf = folder / "conf"
    return {
        "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "RABBITMQ_NODENAME": node_name,
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(conf / "generated"),
        "RABBITMQ_SCHEMA_DIR": str(conf / "schema"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
        "RABBITMQ_CONFIG_FILE": str(conf / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(conf / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(conf / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(conf / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(conf / "enabled_plugins"),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_INETRC": str(conf / "inetrc"),
        "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
        # Applies to every Erlang program in this environment, including the helper that starts epmd.
        "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # Makes the start script exec the node instead of supervising it, so there is one process to signal.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def _definitions(folder: Path) -> dict[str, object]:
    rights = {ADMIN: ADMIN_RIGHTS, SERVICES: SERVICES_RIGHTS}
    tags = {ADMIN: ["administrator"], SERVICES: []}
    return {
        "users": [
            {
                "name": account,
                "password_hash": password_hash(password(folder, account)),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": tags[account],
            }
            for account in rights
        ],
        "vhosts": [{"name": VHOST}],
        "permissions": [{"user": account, "vhost": VHOST, **rights[account]} for account in rights],
        "policies": [consumer_policy()],
    }
