"""Prometheus targets of this machine: one per process, in files that Prometheus watches (file_sd)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cli.local.programs import BROKER, FEEDBACK, SENDER, SERVICES
from cli.settings import LocalSettings


def write_targets(config: LocalSettings, names: Iterable[str]) -> None:
    """Writes the targets of the programs in `names`, which are all that run; see deploy/prometheus/prometheus.yml."""
    ports = {
        "api": config.api_health_port,
        "dispatcher": config.dispatcher_port,
        "watchdog": config.watchdog_port,
        "webhooks": config.webhooks_port,
        FEEDBACK: config.feedback_port,
        BROKER: config.broker_prometheus_port,
    }
    services, broker = [], []
    for name in sorted(names):
        service, _, number = name.partition("-")
        if service == SENDER:
            services.append(_target(config, name, service, config.sender_port + int(number) - 1))
        elif name in (*SERVICES, FEEDBACK):
            services.append(_target(config, name, service, ports[name]))
        elif name == BROKER:
            broker.append(_target(config, name, service, ports[name]))
    folder = config.home / "prometheus"
    if not (services or broker or folder.exists()):
        return  # nothing has ever run here
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vashsender.json", services)
    _write(folder / "rabbitmq.json", broker)


def _target(config: LocalSettings, name: str, service: str, port: int) -> dict[str, Any]:
    """Named after the process, not its address, so that its time series continue when ports change."""
    return {"targets": [f"{config.local_host}:{port}"], "labels": {"instance": name, "service": service}}


def _write(path: Path, targets: list[dict[str, Any]]) -> None:
    # Atomically, because Prometheus reads the file whenever it changes.
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(targets, indent=1) + "\n")
    fresh.replace(path)
