"""docs/api.md names every kind of problem the API can answer with, and none that it cannot."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r"(?:Problem\(\s*\d+,|_unauthorized\()\s*\"([a-z-]+)\"")
FROM_STATUS = {"method-not-allowed"}
NAMED = re.compile(r"^\| \d{3} \| (.*?) \|", re.MULTILINE)


def test_every_problem_is_documented() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "services/api").rglob("*.py") if "page" not in path.parts)
    document = (ROOT / "docs/api.md").read_text()
    documented = {kind for cell in NAMED.findall(document) for kind in re.findall(r"`([a-z-]+)`", cell)}
    assert documented == set(RAISED.findall(sources)) | FROM_STATUS
