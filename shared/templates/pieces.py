"""A compiled template: fixed text, values, and choices between them.

Rendering gives a list of strings. A piece of fixed text is the very same `str` object each time, so that its encoded
form can be kept (see `shared.messages.mime`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import escape

from shared.header_text import UNSAFE_IN_HEADER
from shared.templates.errors import MissingFieldError, Part, RenderError
from shared.templates.limits import MAX_MESSAGE_BYTES, MAX_VALUE_CHARACTERS
from shared.templates.syntax import Position
from shared.templates.values import Values, can_start_link, holds

Expression: TypeAlias = Callable[[Values], object]
"""Gives a Value, or what else the data of a recipient holds."""

MIXED_KINDS = "compares values of different kinds, such as 5 and 'A'"
_LONGEST_ESCAPE = 5  # bytes of a character in HTML, such as &#39;


class Missing(Exception):  # noqa: N818 - a signal inside this package, not an error that anyone sees
    """A value that an expression needs is absent."""


class TooLong(Exception):  # noqa: N818 - a signal inside this package, not an error that anyone sees
    """A filter would read or return too many characters."""


@dataclass(slots=True, eq=False)
class Output:
    """`{{ expression }}`."""

    expression: Expression
    field: str  # the first field in it, named in errors; empty without one
    position: Position
    starts_link: bool = False  # it stands at the start of a link, so its value must begin with a harmless scheme


@dataclass(slots=True, eq=False)
class Branch:
    """`{% if %}`: the first choice whose test holds. Without an `else` there may be none."""

    choices: tuple[tuple[Expression, "Nodes"], ...]
    position: Position
    tests: str = ""  # the source of its tests; equal for two ifs that always agree

    @property
    def alternatives(self) -> tuple["Nodes", ...]:
        """What can stand in its place, including nothing where it has no `else`."""
        bodies = tuple(body for _, body in self.choices)
        return bodies if self.choices[-1][0] is always else (*bodies, ())


Node: TypeAlias = str | Output | Branch
Nodes: TypeAlias = tuple[Node, ...]


def always(_values: object) -> bool:
    """The test of an `else`."""
    return True


class Template:
    """One compiled part. Values are escaped in `html`, and refused where they cannot stand in `subject`."""

    __slots__ = ("_max_characters", "_nodes", "longest_bytes", "part")

    def __init__(self, part: Part, nodes: Nodes, max_characters: int = MAX_MESSAGE_BYTES) -> None:
        self.part = part
        self.longest_bytes = _longest_bytes(nodes)  # an upper bound of the UTF-8 bytes of the rendered text
        self._nodes = nodes
        self._max_characters = max_characters

    def render(self, values: Values) -> str:
        """The whole text, line ends as LF. Raises RenderError."""
        return "".join(self.pieces(values))

    def pieces(self, values: Values) -> list[str]:
        """The text in pieces, in order. Raises RenderError."""
        pieces: list[str] = []
        append = pieces.append if self.longest_bytes <= self._max_characters else self._counting(pieces)
        self._walk(self._nodes, values, append)
        return pieces

    def literals(self) -> Iterator[str]:
        """Every piece of fixed text that `pieces` can give."""
        return (node for node in walk(self._nodes) if isinstance(node, str))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send: no text could be derived."""
        return not self._nodes

    @property
    def is_fixed(self) -> bool:
        """Whether every recipient gets the same text."""
        return all(isinstance(node, str) for node in self._nodes)

    def _counting(self, pieces: list[str]) -> Callable[[str], None]:
        left = self._max_characters

        def append(text: str) -> None:
            nonlocal left
            left -= len(text)
            if left < 0:
                message = f"this recipient's values make the message longer than {self._max_characters} bytes"
                raise RenderError(self.part, "", message)
            pieces.append(text)

        return append

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
                chosen = test is always or holds(test(values))
            except TypeError as error:
                raise RenderError(self.part, "", f"an if {MIXED_KINDS}") from error
            except TooLong:
                raise RenderError(self.part, "", "a filter in an if reads or returns too long a text") from None
            if chosen:
                self._walk(nodes, values, append)
                return

    def _text(self, output: Output, values: Values) -> str:
        try:
            value = output.expression(values)
        except Missing as missing:
            raise MissingFieldError(self.part, str(missing)) from None
        except TypeError as error:
            raise RenderError(self.part, output.field, MIXED_KINDS) from error
        except TooLong:
            raise RenderError(
                self.part, output.field, f"a filter of {output.field!r} reads or returns too long a text"
            ) from None
        text = value if type(value) is str else self._string(value, output)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > MAX_VALUE_CHARACTERS:
            raise RenderError(
                self.part, output.field, f"the value of {output.field!r} exceeds {MAX_VALUE_CHARACTERS} characters"
            )
        if self.part == "html":
            if output.starts_link and not can_start_link(text):
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
        if value is None:  # `a if b` without an else; a required field without a value raises Missing
            return ""
        if isinstance(value, int | float):
            return str(value)
        raise RenderError(self.part, output.field, f"the value of {output.field!r} is neither text nor a number")


def _longest_bytes(nodes: Nodes) -> int:
    value = MAX_VALUE_CHARACTERS * _LONGEST_ESCAPE
    return sum(
        len(node.encode()) if isinstance(node, str) else value for node in walk(nodes) if not isinstance(node, Branch)
    )


def walk(nodes: Nodes) -> Iterator[Node]:
    """All nodes, those inside ifs included, in order of the source."""
    for node in nodes:
        yield node
        if isinstance(node, Branch):
            for _, body in node.choices:
                yield from walk(body)
