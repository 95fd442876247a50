"""Prometheus in deploy/compose: promtool checks configuration, rules and alerts at their paths in the container."""

import subprocess
from pathlib import Path

from tests.support import compose


def test_the_mounted_configuration_is_valid(tmp_path: Path) -> None:
    for mount in compose.mounts(compose.load()["services"]["prometheus"]):
        if mount.path is not None:
            here = tmp_path / mount.target.lstrip("/")
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(mount.path)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "etc/prometheus/prometheus.yml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("rules found") >= 2, done.stdout
