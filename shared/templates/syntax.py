"""Jinja2's own parser, made to remember columns.

Jinja's nodes know only their line. Here a token's line number is an `int` that also carries the column, so every
node and every syntax error says exactly where it stands.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Literal

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Lexer
from jinja2.parser import Parser

from shared.templates.errors import Part, TemplateError


class Position(int):
    """A line number that knows its column; both count from 1."""

    column: int

    def __new__(cls, line: int, column: int) -> "Position":
        position = super().__new__(cls, line)
        position.column = column
        return position


def position_of(node: nodes.Node) -> Position:
    """Where a node stands."""
    for candidate in chain(
        (node,), node.find_all(nodes.Node)
    ):  # what Jinja wraps around a node has no place of its own
        if isinstance(candidate.lineno, Position):
            return candidate.lineno
    return Position(1, 1)


def parse(part: Part, source: str) -> nodes.Template:
    """The syntax tree of a template. Raises TemplateError."""
    try:
        return Parser(_Environment(autoescape=False, keep_trailing_newline=True), source).parse()
    except TemplateSyntaxError as error:
        line = error.lineno
        column = line.column if isinstance(line, Position) else 1
        raise TemplateError(
            part, line, column, f"{(error.message or '').rstrip('.')}. Check the braces and quotes around it."
        ) from None
    except (ValueError, OverflowError):  # Jinja lets through what int() says to a number of thousands of digits
        raise TemplateError(part, 1, 1, "holds a number that is too long; make it text, in quotes") from None
    except RecursionError:
        raise TemplateError(part, 1, 1, "nested too deeply; take some of the nesting out") from None


def split(source: str) -> Iterator[tuple[Literal["text", "output", "statement"], str]]:
    """A valid template as fixed text and whole tags, without its comments."""
    tag = ""
    ends = ""
    for _, token, value in _Environment(keep_trailing_newline=True).lexer.tokeniter(source, None):
        if ends:
            tag += value
            if token == ends:
                if token != "comment_end":
                    yield "output" if token == "variable_end" else "statement", tag
                ends = ""
        elif token in ("variable_begin", "block_begin", "comment_begin", "raw_begin"):
            tag, ends = value, token.replace("begin", "end")
        else:
            yield "text", value


class _PositionLexer(Lexer):
    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        text = source.replace("\r\n", "\n").replace("\r", "\n")
        offset = 0
        position = Position(1, 1)
        try:
            for _, token, value in super().tokeniter(text, name, filename, state):
                start = text.find(value, offset)  # stripped whitespace is skipped by looking ahead
                position = _advance(position, text[offset:start])
                yield position, token, value
                position = _advance(position, value)
                offset = start + len(value)
        except TemplateSyntaxError as error:
            if not isinstance(error.lineno, Position):
                error.lineno = position
            raise


class _Environment(Environment):
    @property
    def lexer(self) -> Lexer:
        return _PositionLexer(self)


def _advance(position: Position, text: str) -> Position:
    lines = text.count("\n")
    if lines:
        return Position(position + lines, len(text) - text.rfind("\n"))
    return Position(int(position), position.column + len(text))
