"""The licences of packages, by the metadata of what is installed."""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Licences under which a program under Apache-2.0 may depend on a package. Those of the GNU family are listed apart.
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0",
    "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "ZPL-2.1",
}  # fmt: skip
#: What older metadata says, in the identifiers of SPDX.
SPELLINGS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-like": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
#: Packages whose metadata is vague, each with the licence in its source.
KNOWN = {
    "dkimpy": "Zlib",
    "supervisor": "BSD-3-Clause",  # the Repoze licence, which is BSD with a clause about changed files
}
#: Classifiers that name no licence.
VAGUE = {"OSI Approved", "DFSG approved"}


def locked(name: str) -> list[str]:
    """The packages that a file of requirements/ names."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [found[1] for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)==", line))]


def licences(package: str, installed_in: Sequence[str] | None = None) -> set[str]:
    """The alternatives' parts as SPDX identifiers: of `A OR B` one must fit, of `A AND B` both.

    `installed_in`: folders to look in, instead of where this Python looks. Raises PackageNotFoundError."""
    found = next(iter(distributions(name=package, path=list(installed_in or sys.path))), None)
    if found is None:
        raise PackageNotFoundError(package)
    about = found.metadata
    if package in KNOWN:
        return {KNOWN[package]}
    expression = str(about.json.get("license_expression", ""))
    if not expression:
        named = {line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if "License ::" in line}
        expression = " AND ".join(sorted(named - VAGUE)) or str(about["License"]).splitlines()[0]
    return set(_parts(expression))


def _parts(expression: str) -> Iterator[str]:
    for conjunct in re.split(r"\s+AND\s+", expression):
        choices = [_spdx(choice) for choice in re.split(r"\s+OR\s+", conjunct)]
        yield next((choice for choice in choices if choice in ALLOWED), choices[0])


def _spdx(name: str) -> str:
    bare = name.strip()
    return SPELLINGS.get(bare.lower()) or bare.strip("()")
