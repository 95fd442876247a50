"""Says whether this installation has compiled modules, and whether they still match their sources.

`make compiled` writes them beside their sources: see docs/compiled.md. Python prefers a compiled module to its source,
so after a change of a source it would run the old code.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from shared.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]
GROUP = "shared.compiled_from_"
SUFFIX = EXTENSION_SUFFIXES[0]
MEND = "run `make compiled`, or `make uncompiled` to run the sources"


def library_of(sources: Iterable[Path]) -> str:
    """The name of the library that is compiled from these sources: it contains a digest of what is in them."""
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(sources):
        digest.update(hashlib.blake2b(source.read_bytes()).digest())
    return f"{GROUP}{digest.hexdigest()}"


@cache
def is_compiled(root: Path = ROOT) -> bool:
    """Whether modules in the folder `root` are compiled. Raises ConfigurationError if they are not all there, or if a
    source has changed since."""
    found = [path for package in ("services", "shared") for path in (root / package).rglob(f"*{SUFFIX}")]
    if not found:
        return False
    libraries = {path.name.partition("__")[0] for path in found if "__mypyc" in path.name}
    sources = [path.with_name(path.name.removesuffix(SUFFIX) + ".py") for path in found if "__mypyc" not in path.name]
    if lost := [path for path in sources if not path.exists()]:
        raise ConfigurationError(f"{lost[0].relative_to(root)} is gone, and its compiled module is not: {MEND}")
    if libraries != {library_of(sources).rpartition(".")[2]}:
        raise ConfigurationError(f"the compiled modules in {root} are not those of its sources: {MEND}")
    return True
