"""Each process is a separate target under its name. Scaling and stopping rewrite the files."""

import json
from pathlib import Path

from cli.local.targets import write_targets
from cli.settings import LocalSettings

SERVICES = ("api", "dispatcher", "watchdog", "webhooks", "broker", "mailbox")


def instances(home: Path, job: str) -> dict[str, str]:
    """Addresses by instance."""
    found = json.loads((home / "prometheus" / f"{job}.json").read_text())
    return {target["labels"]["instance"]: target["targets"][0] for target in found}


def test_each_replica_is_a_target_until_it_is_removed(tmp_path: Path) -> None:
    config = LocalSettings(var_dir=tmp_path, sender_port=9000, http_host="0.0.0.0")
    write_targets(config, [*SERVICES, "sender-1", "sender-2"])
    assert instances(tmp_path, "vashsender") == {
        "api": "127.0.0.1:8712",
        "dispatcher": "127.0.0.1:8710",
        "watchdog": "127.0.0.1:8711",
        "webhooks": "127.0.0.1:8713",
        "sender-1": "127.0.0.1:9000",
        "sender-2": "127.0.0.1:9001",
    }
    assert instances(tmp_path, "rabbitmq") == {"broker": "127.0.0.1:8705"}

    write_targets(config, [*SERVICES, "sender-1"])
    assert "sender-2" not in instances(tmp_path, "vashsender")

    write_targets(config, [])
    assert instances(tmp_path, "vashsender") == instances(tmp_path, "rabbitmq") == {}
