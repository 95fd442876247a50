"""Says whether this installation has compiled modules, and whether they still match their sources.

`make compiled` writes them beside their sources: see docs/compiled.md. Python prefers a compiled module to its source,
so after a change of a source it would run the old code.
"""

import hashlib
from collections.abc import Iterable
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
        digest.update(source.read_bytes())
    return f"{GROUP}{digest.hexdigest()}"


def is_compiled(root: Path = ROOT) -> bool:
    """Whether modules in the folder `root` are compiled. Raises ConfigurationError if a source has changed since."""
    libraries = {path.name.partition("__")[0] for path in (root / "shared").glob(f"compiled_from_*{SUFFIX}")}
    if not libraries:
        return False
    compiled = [path for package in ("services", "shared") for path in (root / package).rglob(f"*{SUFFIX}")]
    modules = [path.with_name(path.name.removesuffix(SUFFIX) + ".py") for path in compiled]
    sources = [path for path in modules if "__mypyc" not in path.name]
    if lost := [path for path in sources if not path.exists()]:
        raise ConfigurationError(f"{lost[0].relative_to(root)} is gone, and its compiled module is not: {MEND}")
    if libraries != {library_of(sources).rpartition(".")[2]}:
        raise ConfigurationError(f"a source in {root} has changed since the modules were compiled: {MEND}")
    return True
