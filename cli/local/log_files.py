"""The log files of the supervised processes: their last lines in order of time, then new lines as they come."""

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from cli.local.launch import KEPT
from cli.output import out, show_text
from cli.visible import visible, visible_json
from shared.errors import DataError

POLL_SECONDS = 0.2
BLOCK_BYTES = 65_536
PLAIN_KEYS = ("timestamp", "level", "event", "service", "instance")
LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}


def show_logs(folder: Path, name: str, *, follow: bool, lines: int, campaign: str, raw: bool) -> None:
    """Writes log lines to stdout. `name`: a process, a service, or empty for all. Raises DataError if there is none."""
    paths = _log_files(folder, name)
    if not paths:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none yet"
        raise DataError(f"there is no log of {name or 'anything'} in {folder}. The logs are: {known}")
    show = _raw if raw or not out().is_terminal else _readable
    sizes = {path: path.stat().st_size for path in paths}
    found = [line for path in paths for line in _tail_with_older(path, sizes[path], lines, campaign)]
    for line in sorted(found, key=_written_at)[-lines:] if lines else ():
        show(line)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it
            for line in _next_lines(folder, name, sizes):
                if campaign in line:
                    show(line)


def _log_files(folder: Path, name: str) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob("*.log"))
        if not name or path.stem == name or path.stem.startswith(f"{name}-")
    ]


def _tail_with_older(path: Path, size: int, lines: int, wanted: str) -> list[str]:
    """The last lines of a log; if they are too few, also the last lines of its older files."""
    found = _tail(path, size, lines, wanted)
    for number in range(1, KEPT + 1):
        older = path.with_name(f"{path.name}.{number}")
        if len(found) >= lines or not older.exists():
            break
        found = [*_tail(older, older.stat().st_size, lines - len(found), wanted), *found]
    return found


def _tail(path: Path, size: int, lines: int, wanted: str) -> list[str]:
    """The last lines before `size` that contain `wanted`, read from the end."""
    found: list[str] = []
    rest = b""
    with path.open("rb") as file:
        position = size
        while position > 0 and len(found) < lines:
            length = min(BLOCK_BYTES, position)
            position -= length
            file.seek(position)
            block = (file.read(length) + rest).split(b"\n")
            rest = block.pop(0) if position else b""
            texts = (line.decode("utf-8", "replace") for line in reversed(block))
            found += [text for text in texts if text and wanted in text]
    return found[:lines][::-1]


def _next_lines(folder: Path, name: str, sizes: dict[Path, int]) -> Iterator[str]:
    """New lines as they are written, without end, also of processes that start later. A rotated file is read from its
    beginning."""
    rests: defaultdict[Path, bytes] = defaultdict(bytes)
    while True:
        for path in _log_files(folder, name):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue
            if size < sizes.setdefault(path, 0):
                sizes[path], rests[path] = 0, b""
            if size > sizes[path]:
                with path.open("rb") as file:
                    file.seek(sizes[path])
                    block = file.read(size - sizes[path])
                sizes[path] += len(block)
                *lines, rests[path] = (rests[path] + block).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines if line)
        time.sleep(POLL_SECONDS)


def _written_at(line: str) -> str:
    """The line's timestamp: ISO 8601 in UTC, which sorts as text. Lines without one, such as tracebacks, come first."""
    try:
        return str(json.loads(line)["timestamp"])
    except (ValueError, KeyError, TypeError):
        return ""


def _raw(line: str) -> None:
    sys.stdout.write(visible_json(line) + "\n")
    sys.stdout.flush()


def _readable(line: str) -> None:
    try:
        entry = json.loads(line)
        said = f"{entry['timestamp']} {entry['level']:<8} {entry['instance']:<24} {entry['event']}"
    except (ValueError, KeyError, TypeError):
        show_text(line)
        return
    rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in PLAIN_KEYS)
    out().print(visible(f"{said} {rest}".rstrip()), markup=False, style=LEVEL_STYLES.get(entry["level"]))
