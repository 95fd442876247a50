"""What short verbs load: each of these modules would take much of a verb's CPU time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Modules, and what needs them.
HEAVY = {
    "asyncpg": "the ledger",
    "aio_pika": "the broker",
    "cryptography": "keys",
    "email_validator": "unusual addresses",
    "faststream": "the broker",
    "pydantic": "the settings classes",
    "rich": "colours and bars, and tables that are wider than the terminal",
    "sqlalchemy": "the ledger",
    "supervisor": "supervisord itself",
}
PROGRAM = """
import json, sys
from cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, [name for name in sys.modules if sys.modules[name]]]))
"""


@pytest.mark.parametrize(
    ("verb", "exit_code"),
    [
        (["status"], 69),
        (["campaign", "list", "--url", "http://127.0.0.1:9", "--key", "k"], 69),
        (["campaign", "list"], 78),
        (["inspect", "queues", "--url", "http://127.0.0.1:9", "--key", "k"], 69),
    ],
)
def test_a_short_verb_loads_no_heavy_module(tmp_path: Path, verb: list[str], exit_code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *verb],
        env={"PYTHONPATH": ".", "VASHSENDER_VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == exit_code, done.stderr
    assert {name: why for name, why in HEAVY.items() if name in loaded} == {}
