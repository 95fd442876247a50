"""With VASHSENDER_COMPILE=1, a build compiles the modules that every email passes through: docs/compiled.md."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

COMPILED = [
    "services/sender/drafts.py",
    "services/sender/feed.py",
    "services/sender/held_batch.py",
    "services/sender/held_batches.py",
    "services/sender/limits.py",
    "services/sender/memory.py",
    "services/sender/observer.py",
    "services/sender/provider_gate.py",
    "services/sender/refusals.py",
    "services/sender/results.py",
    "services/sender/smtp/attempt.py",
    "services/sender/smtp/connection.py",
    "services/sender/smtp/dialogue.py",
    "services/sender/smtp/dispatch.py",
    "services/sender/smtp/making.py",
    "services/sender/smtp/observe.py",
    "services/sender/smtp/outbox.py",
    "services/sender/smtp/pool.py",
    "services/sender/smtp/provider_rests.py",
    "services/sender/smtp/relay.py",
    "services/sender/smtp/replies.py",
    "services/sender/spread.py",
    "services/sender/unrecorded.py",
    "services/sender/worklist.py",
    "shared/email_tokens.py",
    "shared/messages/dkim.py",
    "shared/messages/headers.py",
    "shared/messages/message.py",
    "shared/messages/mime.py",
    "shared/providers.py",
    "shared/relays/replies.py",
    "shared/retries.py",
    "shared/templates/pieces.py",
]

BUILT = "var/compiled"

OPTIONS = [
    "--config-file=",
    "--explicit-package-bases",
    "--ignore-missing-imports",
    f"--cache-dir={BUILT}/types",
    # Compiled code believes what mypy has concluded, also where a call has changed an attribute since.
    "--warn-unreachable",
    "--enable-error-code=redundant-expr",
]


def extensions() -> list[Extension]:
    """One library with all of them, and for each module a small one beside its source that refers to it."""
    if os.environ.get("VASHSENDER_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    sys.path.insert(0, "")  # a build by pip has no path to these packages
    from shared.compiled import library_of

    Path(BUILT).mkdir(parents=True, exist_ok=True)
    return mypycify(
        [*OPTIONS, *COMPILED],
        group_name=library_of(Path(path) for path in COMPILED),
        debug_level="0",
        target_dir=BUILT,
    )


setup(ext_modules=extensions())
