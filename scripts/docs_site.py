"""Builds the docs as a site in var/docs/site: `make docs`. Fails if a link leads nowhere.

The pages in docs/ are written for GitHub, and stay so. For the site, README, CONTRIBUTING, SECURITY and CHANGELOG are
pages beside them; links to source files become plain text, or links below `--source URL`; and the contract of the API
becomes a page.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ROOT / "var" / "docs" / "pages"
SITE = ROOT / "var" / "docs" / "site"
MKDOCS = ROOT / "var" / "docs" / "environment" / "bin" / "mkdocs"
BESIDE = {"README.md": "start.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "SECURITY.md": "SECURITY.md",
          "CHANGELOG.md": "CHANGELOG.md", "LICENSE": "LICENSE"}  # fmt: skip
REFERENCE = "reference.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^(?:    .*\n)+|`[^`\n]*`", re.MULTILINE | re.DOTALL)
INTRODUCTION = (
    "Every request, from the contract that the API serves at `/openapi.json`. What a schema cannot say is on"
    " [the page of the API](api.md)."
)
METHODS = ("get", "post", "put", "patch", "delete")


def main() -> int:
    options = _options()
    prepare(options.source)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [str(MKDOCS), "build", "--quiet", "--clean"], cwd=ROOT, env=environment, check=False
    ).returncode


def prepare(source: str = "") -> None:
    """Writes all pages into PAGES."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS, PAGES, ignore=shutil.ignore_patterns("*.head.md"))
    for name, target in BESIDE.items():
        shutil.copy(ROOT / name, PAGES / target)
    for page in sorted(PAGES.rglob("*.md")):
        here = page.relative_to(PAGES)
        origin = next((ROOT / name for name, target in BESIDE.items() if target == str(here)), DOCS / here)
        page.write_text(for_the_site(page.read_text(), origin, page, source))
    (PAGES / REFERENCE).write_text(reference(_contract()))
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


def reference(contract: Mapping[str, Any]) -> str:
    """A page with every request of an OpenAPI document: parameters, body, answers, and the examples of the schemas."""
    lines = ["# API reference", "", INTRODUCTION, ""]
    for path, operations in contract["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _operation(f"{method.upper()} {path}", operations[method], contract)
    return "\n".join(lines) + "\n"


def _operation(title: str, operation: Mapping[str, Any], contract: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"## `{title}`",
        "",
        f"**{operation.get('summary', '')}.** {operation.get('description', '')}".strip(),
        "",
    )
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in (_resolved(one, contract) for one in parameters):
            needed = " (required)" if one.get("required") else ""
            meaning = _cell(one.get("description", ""))
            yield f"| `{one['name']}`{needed} | {one['in']} | {_type(one['schema'])} | {meaning} |"
        yield ""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body, `{kind}`:", "", *_body(content.get("schema", {}), contract))
    yield from ("| answer | meaning |", "|---|---|")
    for status, answer in operation["responses"].items():
        yield f"| {status} | {_cell(answer['description'])} |"
    yield ""


def _body(schema: Mapping[str, Any], contract: Mapping[str, Any]) -> Iterator[str]:
    schema = _resolved(schema, contract)
    if properties := schema.get("properties"):
        yield from ("| field | type | meaning |", "|---|---|---|")
        for name, one in properties.items():
            needed = " (required)" if name in schema.get("required", ()) else ""
            yield f"| `{name}`{needed} | {_type(one)} | {_cell(one.get('description', ''))} |"
        yield ""
    for example in schema.get("examples", ()):
        yield from ("```json", json.dumps(example, indent=2, ensure_ascii=False), "```", "")


def _resolved(schema: Mapping[str, Any], contract: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = contract["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(one) for one in options if one.get("type") != "null")
    if values := schema.get("enum"):
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _contract() -> dict[str, Any]:
    from fastapi import FastAPI

    from services.api.rest import mount

    app = FastAPI()
    mount.mount(app)
    return app.openapi()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.docs_site")
    parser.add_argument("--source", default="", help="URL of the repository's files, for links to them; ends with /")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
