"""The example of docs/api.md, command by command against a real server. `jq` is replaced: it may not be there."""

import os
import re
import subprocess
import sys
from asyncio import to_thread
from pathlib import Path

import pytest

from tests.support.relay import RecordingRelay
from tests.support.system import System

pytestmark = pytest.mark.timeout(180)

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
PEOPLE = "email,first_name\nann@example.com,Ann\nbob@example.com,Bob\n"
JQ = f"""#!{sys.executable}
import json, sys
assert sys.argv[1:] == ["-r", ".id"]
print(json.load(sys.stdin)["id"])
"""
# Every curl fails on a status from 400 on, as a person would see in the answer.
CURL = '#!/bin/sh\necho called >> "$CALLS"\nexec /usr/bin/curl --fail-with-body --noproxy "*" --max-time 120 "$@"\n'


def example() -> str:
    """The shell block below *A campaign with curl*."""
    found = re.search(r"^## A campaign with curl\n\n```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


async def test_each_command_of_the_example_works(system: System, relay: RecordingRelay, tmp_path: Path) -> None:
    await system.start()
    folder = tmp_path / "reader"
    (folder / "var" / "secrets").mkdir(parents=True)
    (folder / "var" / "secrets" / "api_key").write_text(system.key)
    (folder / "people.csv").write_text(PEOPLE)
    for name, text in (("jq", JQ), ("curl", CURL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    port = system.processes["api"].http_url.rpartition(":")[2]
    script = example().replace("127.0.0.1:8700", f"127.0.0.1:{port}")
    done = await to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((folder / "calls").read_text().splitlines()) == len(re.findall(r"\bcurl\b", script)) == 5
    assert '"accepted":2' in done.stdout.replace(" ", "")
    assert '"status":"finished"' in done.stdout.replace(" ", ""), "the events ended before the campaign was over"
    assert sorted(email.rcpt for email in relay.received) == ["ann@example.com", "bob@example.com"]
