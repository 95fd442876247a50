"""Keeps the English plain: refuses phrases that an English-speaking engineer would not write. See CONTRIBUTING.md."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUFFIXES = ("*.py", "*.md", "*.html", "*.j2", "*.toml", "*.yml", "*.yaml", "*.js", "Makefile")
#: Text by other people, data that quotes the outside world, and this file.
EXCLUDED = re.compile(r"/vendor/|^tests/data/|^examples/|/grafana/|package-lock|^tests/unit/test_plain_english\.py$")

#: What not to write, and what to write instead.
PHRASES = {
    r"who(m|so)?ever": "anyone who, the client that",
    r"nobody [a-z]\w*|somebody": "no one, someone; or name the process",
    r"at hand": "current, available",
    r"in hand(?!\.)": "held, in work",
    r"so long (after|as|ago|until)": "seconds after, while",
    r"so (many|much) (later|longer|more)": "that many",
    r"of (its|their|one's|ones) own": "its own X, a separate X",
    r"tells? (what|who|whom|which|whether|how|when|where|why|of)": "says, shows, reports",
    r"(is|are|was|were|be) told of": "is notified of, receives",
    r"goes on (at|by|with|from|there)": "continues",
    r"comes? of (it|them|this|that)": "result",
    r"what (became|becomes|is become) of": "the status of, the result of",
    r"for want of": "for lack of",
    r"by the dozen|anew|whence|thereof|wherein|lest": "the usual word",
    r"deeds?": "actions",
    r"as long as it takes": "a duration",
    r"put off": "deferred",
    r"a turn of": "a job, a tick, a round",
}


def texts() -> list[str]:
    """Names of files with text of ours."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SUFFIXES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.splitlines() if not EXCLUDED.search(name) and (ROOT / name).exists()]


def findings(name: str) -> list[str]:
    """The refused phrases of a file, with their lines. Finds a phrase across a line break, too."""
    text, found = (ROOT / name).read_text(), []
    for phrase, better in PHRASES.items():
        pattern = phrase.replace(" ", r"(?:\s|#:?)+")
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{name}:{line}: {' '.join(match[0].split())!r}: write {better}")
    return found


def test_no_refused_phrase_is_used() -> None:
    found = [finding for name in texts() for finding in findings(name)]
    assert not found, "\n".join(found)
