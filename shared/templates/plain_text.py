"""Text for people who do not read HTML, derived from the compiled HTML with its values and ifs in place.

The values and the ends of ifs are put into the HTML as markers, an HTML5 parser reads it, the page is written out as
text, and the markers become nodes again. A value is never looked into: to the text it is one opaque word.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NoReturn, TypeAlias

from shared.templates.errors import TemplateError
from shared.templates.html_parser import HtmlParser
from shared.templates.html_places import Place, characters_for_marks
from shared.templates.page_text import Marks, page_text
from shared.templates.pieces import Branch, Expression, Node, Nodes, Output, always, walk

_CHANGES_TEXT = re.compile(r"[<>]|\b(?:href|alt|hidden)\b|display\s*:", re.IGNORECASE)

Path: TypeAlias = tuple[tuple[str, int], ...]
"""The ifs around a place, from the outermost on: their tests, and the number of the branch."""


def derive_text(nodes: Nodes, places: Mapping[Node, Place], parser: HtmlParser) -> Nodes:
    """The nodes of the text. Raises TemplateError where an if crosses tags, so that no text would be right."""
    return _Derivation(nodes, places).derive(parser)


class _Derivation:
    def __init__(self, nodes: Nodes, places: Mapping[Node, Place]) -> None:
        self._html = nodes
        self._places = places
        self._marks = Marks(*characters_for_marks(nodes))
        self._by_number = [node for node in walk(nodes) if not isinstance(node, str)]
        self._numbers = {node: number for number, node in enumerate(self._by_number)}
        self._paths = dict(_paths(nodes, ()))
        self._links: dict[str, Path] = {}

    def derive(self, parser: HtmlParser) -> Nodes:
        text = page_text(parser.parse("".join(self._marked(self._html))), self._marks)
        if text is None:
            self._crosses(None)
        pieces = iter(self._marks.split(text))
        derived, end = self._parsed(pieces, ())
        if end:
            self._crosses(self._node(end))
        return derived

    def _marked(self, nodes: Nodes) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, str):
                yield node
                continue
            place, number = self._places[node], self._numbers[node]
            if isinstance(node, Output):
                yield self._mark(place, f"o{number}")
                continue
            if place.kind == "tag" and _changes_text(node):
                self._crosses(node)
            for index, body in enumerate(node.alternatives):
                yield self._mark(place, f"i{number}.{index}")
                yield from self._marked(body)
            yield self._mark(place, f"e{number}")

    def _mark(self, place: Place, code: str) -> str:
        mark = self._marks.write(code)
        if place.kind == "attribute" or (place.kind == "text" and place.name):
            return mark
        # Parsers keep a script where it stands; text between the rows of a table would move before it.
        return f"<script>{mark}</script>" if place.kind == "text" else ""

    def _parsed(self, pieces: Iterator[str], path: Path) -> tuple[Nodes, str]:
        """Nodes up to the next end of a branch, and the code of that end; empty at the end of the text."""
        nodes: list[Node] = []
        texts: list[str] = []
        for index, piece in enumerate(pieces):
            if index % 2 == 0 or piece[0] in "lmn":
                texts.append(piece if index % 2 == 0 else self._link(piece, path))
                continue
            if text := "".join(texts):
                nodes.append(text)
            texts.clear()
            if piece[0] == "o":
                node = self._node(piece)
                if self._paths[node] != path:
                    self._crosses(node)
                nodes.append(node)
            elif piece[0] == "i" and piece.endswith(".0"):
                nodes.append(self._branch(pieces, self._node(piece), path))
            else:
                return tuple(nodes), piece
        if text := "".join(texts):
            nodes.append(text)
        return tuple(nodes), ""

    def _branch(self, pieces: Iterator[str], branch: Node, path: Path) -> Branch:
        assert isinstance(branch, Branch)
        number = self._numbers[branch]
        tests: list[Expression] = [*(test for test, _ in branch.choices), always]
        bodies = []
        for index in range(len(branch.alternatives)):
            last = index == len(branch.alternatives) - 1
            body, end = self._parsed(pieces, (*path, (branch.tests, index)))
            if end != (f"e{number}" if last else f"i{number}.{index + 1}"):
                self._crosses(branch)
            bodies.append(body)
        if not bodies[-1] and tests[len(bodies) - 1] is always:
            bodies.pop()
        return Branch(tuple(zip(tests, bodies, strict=False)), branch.position, branch.tests)

    def _link(self, code: str, path: Path) -> str:
        """`[`, `](` and `)` of one link, which must stand in the same branch."""
        if self._links.setdefault(code[1:], path) != path:
            self._crosses(None)
        return {"l": "[", "m": "](", "n": ")"}[code[0]]

    def _node(self, code: str) -> Node:
        return self._by_number[int(re.findall("[0-9]+", code)[0])]

    def _crosses(self, node: Node | None) -> NoReturn:
        line, column = (1, 1) if node is None or isinstance(node, str) else (node.position, node.position.column)
        message = "no text could be derived from the HTML, because an if begins and ends in different tags"
        raise TemplateError("html", line, column, f"{message}; give the text yourself")


def _changes_text(branch: Branch) -> bool:
    """Whether an if inside a tag decides where a link leads, or what is displayed."""
    return any(
        isinstance(node, Output) or (isinstance(node, str) and _CHANGES_TEXT.search(node)) for node in walk((branch,))
    )


def _paths(nodes: Nodes, path: Path) -> Iterator[tuple[Node, Path]]:
    for node in nodes:
        if isinstance(node, Output):
            yield node, path
        elif isinstance(node, Branch):
            for index, body in enumerate(node.alternatives):
                yield from _paths(body, (*path, (node.tests, index)))
