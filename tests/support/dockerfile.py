"""Reads the instructions of the Dockerfile."""

import json
import re
from pathlib import Path

FILE = Path(__file__).parents[2] / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continued lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def last_stage() -> list[tuple[str, str]]:
    """The instructions from the last FROM on, which make the final image."""
    found = instructions()
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def environment() -> dict[str, str]:
    """The image's ENV."""
    pairs = (re.findall(r"(\w+)=(\S+)", rest) for word, rest in last_stage() if word == "ENV")
    return {name: value for found in pairs for name, value in found}


def health_check() -> list[str]:
    """The command of HEALTHCHECK."""
    rest = next(rest for word, rest in last_stage() if word == "HEALTHCHECK")
    command: list[str] = json.loads(rest.partition(" CMD ")[2])
    return command


def entrypoint() -> list[str]:
    command: list[str] = json.loads(next(rest for word, rest in last_stage() if word == "ENTRYPOINT"))
    return command
