"""Builds the docs as a site in var/docs/site: `make docs`. Fails if a link leads nowhere.

The pages in docs/ are written for GitHub, and stay so. For the site, README, CONTRIBUTING, SECURITY and CHANGELOG are
pages beside them; links to source files become plain text, or links below `--source URL`; and the contract of the API
becomes a page (api_reference.py). The menu has the headings of docs/index.md and the pages below each.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.api_reference import contract, reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ROOT / "var" / "docs" / "pages"
SITE = ROOT / "var" / "docs" / "site"
MKDOCS = ROOT / "var" / "docs" / "environment" / "bin" / "mkdocs"
CONFIGURATION = ROOT / "var" / "docs" / "mkdocs.json"
BESIDE = {"README.md": "start.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "SECURITY.md": "SECURITY.md",
          "CHANGELOG.md": "CHANGELOG.md", "LICENSE": "LICENSE"}  # fmt: skip
SHIM = Path(__file__).parent / "vendor" / "iframe-worker.js"
"""What the search needs in a site that is opened from files."""
REFERENCE = "reference.md"
RUNBOOKS = "Runbooks"
FIRST = {"Start": ["start.md", "index.md"]}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| (\[.*?\)) \|", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|^(?:    .*\n)+|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def main() -> int:
    options = _options()
    prepare(options.source)
    pages = sorted(str(page.relative_to(PAGES)) for page in PAGES.rglob("*.md"))
    menu = contents((PAGES / "index.md").read_text(), pages)
    folders = {"docs_dir": str(PAGES), "site_dir": str(SITE)}
    CONFIGURATION.write_text(json.dumps({"INHERIT": str(ROOT / "mkdocs.yml"), **folders, "nav": menu}))
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [str(MKDOCS), "build", "--quiet", "--clean", "--config-file", str(CONFIGURATION)],
        cwd=ROOT,
        env=environment,
        check=False,
    ).returncode


def contents(index: str, pages: Sequence[str]) -> list[dict[str, list[str]]]:
    """The menu: for each heading of the index the pages in the table below it. Raises LookupError for a page that the
    index does not name."""
    menu = [FIRST]
    for section in index.split("\n## ")[1:]:
        rows = ROW.findall(section)
        menu.append({section.partition("\n")[0]: [target for row in rows for _, _, target in LINK.findall(row)]})
    menu.append({RUNBOOKS: [page for page in pages if page.startswith("runbooks/")]})
    named = {page for part in menu for group in part.values() for page in group}
    if missing := set(pages) - named:
        raise LookupError(f"docs/index.md does not name {', '.join(sorted(missing))}")
    return menu


def prepare(source: str = "") -> None:
    """Writes all pages into PAGES."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS, PAGES, ignore=shutil.ignore_patterns("*.head.md"))
    for name, target in BESIDE.items():
        shutil.copy(ROOT / name, PAGES / target)
    (PAGES / "assets").mkdir(exist_ok=True)
    shutil.copy(SHIM, PAGES / "assets")
    for page in sorted(PAGES.rglob("*.md")):
        here = page.relative_to(PAGES)
        origin = next((ROOT / name for name, target in BESIDE.items() if target == str(here)), DOCS / here)
        page.write_text(for_the_site(page.read_text(), origin, page, source))
    (PAGES / REFERENCE).write_text(reference(contract()))
    index = PAGES / "index.md"
    row = "| [HTTP API](api.md) |"
    index.write_text(
        index.read_text().replace(row, f"| [API reference]({REFERENCE}) | Which requests are there? |\n{row}")
    )


def for_the_site(text: str, origin: Path, page: Path, source: str) -> str:
    """The text of `origin`, as `page` of the site: its links lead to pages of the site."""

    def moved(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if re.match(r"\w+:|#", target):
            return found[0]
        path, mark, anchor = target.partition("#")
        there = (origin.parent / path).resolve()
        name = str(there.relative_to(ROOT))
        if there.is_relative_to(DOCS):
            new = PAGES / there.relative_to(DOCS)
        elif name in BESIDE:
            new = PAGES / BESIDE[name]
        else:
            return f"[{label}]({source}{name})" if source else label
        return f"{picture}[{label}]({os.path.relpath(new, page.parent)}{mark}{anchor})"

    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(moved, text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, LINK.sub(moved, text[last:])])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.docs_site")
    parser.add_argument("--source", default="", help="URL of the repository's files, for links to them; ends with /")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
