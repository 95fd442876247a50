"""The docs as a whole: every page is reachable from docs/index.md, and every relative link and anchor resolves."""

import re
import subprocess
from pathlib import Path

import pytest

from scripts.docs_site import contents

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "index.md"


def pages() -> list[Path]:
    """Every Markdown file of the repository, apart from vendored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = (ROOT / name for name in listed.splitlines() if "/vendor/" not in name)
    return [path for path in found if path.exists()]


def links(page: Path) -> list[str]:
    """Targets of links and images outside code, without external ones."""
    text = re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolve(page: Path, target: str) -> Path:
    """The file that a link of a page points to."""
    path = target.partition("#")[0]
    return (page.parent / path).resolve() if path else page


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    for target in links(page):
        file, anchor = resolve(page, target), target.partition("#")[2]
        assert file.exists(), f"{target}: no such file"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}: no such heading"


def test_every_page_is_reachable_from_the_index() -> None:
    docs = {page for page in pages() if page.is_relative_to(ROOT / "docs") and ".head." not in page.name}
    linked = {resolve(INDEX, target) for target in links(INDEX)}
    assert docs - linked - {INDEX} == set()


def test_the_readme_links_to_the_index() -> None:
    assert INDEX in {resolve(ROOT / "README.md", target) for target in links(ROOT / "README.md")}


def test_pictures_are_files_that_the_site_shows_as_well() -> None:
    """GitHub draws Mermaid, and `make docs` would show its source."""
    assert [page.name for page in pages() if re.search(r"^```mermaid", page.read_text(), re.MULTILINE)] == []


def test_the_menu_of_the_site_has_the_parts_of_the_index() -> None:
    index = "# Docs\n\n## Run it\n\n| page | answers |\n|---|---|\n| [A](a.md), [B](b.md) | See [C](c.md)? |\n"
    menu = contents(index, ["a.md", "b.md", "index.md", "runbooks/x.md", "start.md"])
    assert menu[1:] == [{"Run it": ["a.md", "b.md"]}, {"Runbooks": ["runbooks/x.md"]}]
    with pytest.raises(LookupError, match=r"does not name c\.md"):
        contents(index, ["a.md", "b.md", "c.md"])
