"""A compiled template: fixed text, merge values, and choices between them.

Rendering gives a list of strings. Fixed text comes back as the very same `str` object each time, so that whoever
encodes an email can keep the encoded form of it (see `services.sender.mime`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import escape

from shared.header_text import UNSAFE_IN_HEADER
from shared.templates.errors import MissingFieldError, Part, RenderError

MAX_VALUE_CHARACTERS = 10_000

Value: TypeAlias = str | int | float | bool | None
Values: TypeAlias = Mapping[str, Value]
Expression: TypeAlias = Callable[[Values], Value]

_LINK_START = re.compile(r"(?:https?://|mailto:|tel:|sms:)[^\s]", re.IGNORECASE)


class Missing(Exception):  # noqa: N818 - a signal inside this package, not an error that anyone sees
    """A value that an expression needs is absent."""


@dataclass(frozen=True, slots=True)
class Output:
    """`{{ expression }}`. `field` names it in errors; `starts_link` demands a harmless URL scheme of the value."""

    expression: Expression
    field: str
    starts_link: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """`{% if %}`: the first choice whose test holds. The test of `else` always does."""

    choices: tuple[tuple[Expression, "Nodes"], ...]


Node: TypeAlias = str | Output | Branch
Nodes: TypeAlias = tuple[Node, ...]


class Template:
    """One compiled part. Values are escaped in `html`, refused where they cannot stand in `subject`."""

    __slots__ = ("_nodes", "part")

    def __init__(self, part: Part, nodes: Nodes) -> None:
        self.part = part
        self._nodes = nodes

    def render(self, values: Values) -> str:
        """The whole text, line ends as LF. Raises RenderError."""
        return "".join(self.pieces(values))

    def pieces(self, values: Values) -> list[str]:
        """The text in pieces, in order. Raises RenderError."""
        pieces: list[str] = []
        self._walk(self._nodes, values, pieces.append)
        return pieces

    def literals(self) -> Iterator[str]:
        """Every piece of fixed text that `pieces` can give."""
        return _literals(self._nodes)

    @property
    def is_fixed(self) -> bool:
        """Whether every recipient gets the same text."""
        return all(type(node) is str for node in self._nodes)

    def _walk(self, nodes: Nodes, values: Values, append: Callable[[str], None]) -> None:
        for node in nodes:
            if type(node) is str:
                append(node)
            elif type(node) is Output:
                append(self._text(node, values))
            elif type(node) is Branch:
                self._choose(node, values, append)

    def _choose(self, branch: Branch, values: Values, append: Callable[[str], None]) -> None:
        for test, nodes in branch.choices:
            try:
                holds = test(values)
            except TypeError as error:
                raise RenderError(
                    self.part, "", "an if compares values of different kinds, such as 5 and 'A'"
                ) from error
            if holds:
                self._walk(nodes, values, append)
                return

    def _text(self, output: Output, values: Values) -> str:
        try:
            value = output.expression(values)
        except Missing as missing:
            raise MissingFieldError(self.part, str(missing)) from None
        except TypeError as error:
            raise RenderError(
                self.part, output.field, "compares values of different kinds, such as 5 and 'A'"
            ) from error
        text = value if type(value) is str else self._string(value, output)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > MAX_VALUE_CHARACTERS:
            raise RenderError(
                self.part, output.field, f"the value of {output.field!r} exceeds {MAX_VALUE_CHARACTERS} characters"
            )
        if self.part == "html":
            if output.starts_link and not _LINK_START.match(text):
                raise RenderError(
                    self.part,
                    output.field,
                    f"the value of {output.field!r} starts a link: only http(s)://, mailto:, tel: or sms: may",
                )
            return escape(text)
        if self.part == "subject" and UNSAFE_IN_HEADER.search(text):
            raise RenderError(
                self.part, output.field, f"the value of {output.field!r} holds a line break or a control character"
            )
        return text

    def _string(self, value: object, output: Output) -> str:
        if value is None:  # of `a if b` without an else; a needed field without a value does not come here
            return ""
        if isinstance(value, int | float):
            return str(value)
        raise RenderError(self.part, output.field, f"the value of {output.field!r} is neither text nor a number")


def _literals(nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, Branch):
            for _, chosen in node.choices:
                yield from _literals(chosen)
