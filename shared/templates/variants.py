"""A template's combinations of branches: as few as show every branch once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.templates.pieces import Branch, Nodes, Output, walk

OUTPUT, BEGIN, END, LAST = "o", "b", "e", "z"
"""Kinds of markers: an output, the beginning and the end of an if, the end of everything."""


class Marker(NamedTuple):
    """Stands where a node is, without being part of the text."""

    number: int  # of the node in the template
    kind: str
    node: Output | Branch | None


@dataclass(slots=True)
class Variant:
    """One combination: its fixed text, and the markers with their offsets in it."""

    text: str = ""
    markers: list[tuple[int, Marker]] = field(default_factory=list)


def variants(nodes: Nodes) -> Iterator[Variant]:
    """At least one; each shows a branch that none before it showed."""
    coverage = _Coverage(nodes)
    yield coverage.next(nodes)
    while coverage.unseen:
        yield coverage.next(nodes)


class _Coverage:
    def __init__(self, nodes: Nodes) -> None:
        numbered = [node for node in walk(nodes) if not isinstance(node, str)]
        self._numbers = {node: number for number, node in enumerate(numbered)}
        self._unseen: dict[tuple[Branch, int], int] = {}  # alternatives not shown yet, the nested ones included
        self._seen: set[tuple[Branch, int]] = set()
        self.unseen = self._count(nodes)

    def next(self, nodes: Nodes) -> Variant:
        variant = Variant()
        pieces: list[str] = []
        self._add(nodes, variant, pieces, 0, [])
        variant.text = "".join(pieces)
        variant.markers.append((len(variant.text), Marker(len(self._numbers), LAST, None)))
        return variant

    def _count(self, nodes: Nodes) -> int:
        total = 0
        for node in nodes:
            if isinstance(node, Branch):
                for index, body in enumerate(node.alternatives):
                    self._unseen[node, index] = 1 + self._count(body)
                    total += self._unseen[node, index]
        return total

    def _add(
        self, nodes: Nodes, variant: Variant, pieces: list[str], offset: int, path: list[tuple[Branch, int]]
    ) -> int:
        """Adds nodes at an offset of the fixed text and returns the offset behind them."""
        for node in nodes:
            if isinstance(node, str):
                pieces.append(node)
                offset += len(node)
            elif isinstance(node, Output):
                variant.markers.append((offset, Marker(self._numbers[node], OUTPUT, node)))
            else:
                number = self._numbers[node]
                index = next((i for i in range(len(node.alternatives)) if self._unseen[node, i]), 0)
                inside = [*path, (node, index)]
                self._see(inside)
                variant.markers.append((offset, Marker(number, BEGIN, node)))
                offset = self._add(node.alternatives[index], variant, pieces, offset, inside)
                variant.markers.append((offset, Marker(number, END, node)))
        return offset

    def _see(self, path: list[tuple[Branch, int]]) -> None:
        if path[-1] in self._seen:
            return
        self._seen.add(path[-1])
        self.unseen -= 1
        for step in path:
            self._unseen[step] -= 1
