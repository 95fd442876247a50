"""What benchmarks found, as JSON."""

import json
import os
import platform
from pathlib import Path

from shared.compiled import is_compiled

REPORTS = Path("var/bench")


def write_report(name: str, **found: object) -> Path:
    """Writes it to var/bench/NAME.json, with the machine it was found on."""
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "compiled": is_compiled(),
        "load": round(os.getloadavg()[0], 2),
    }
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n")
    return path
