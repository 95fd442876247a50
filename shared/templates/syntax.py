"""Jinja2's own parser, made to remember columns and to leave CSS alone.

Jinja's nodes know only their line. Here a token's line number is an `int` that also carries the column, so every
node and every syntax error says exactly where it stands.
"""

import re
from collections.abc import Collection, Iterator
from itertools import chain

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Lexer
from jinja2.parser import Parser

from shared.templates.errors import Part, TemplateError
from shared.templates.foreign_tags import hint
from shared.templates.limits import MAX_STEPS

# A comment of the template, a comment of HTML (but not a conditional one, whose content Outlook reads), or raw text.
_RAW_OR_NOTE = re.compile(r"\{%-?\s*raw\b|\{#")
_NOTE = re.compile(r"\{#")
_END_RAW = re.compile(r"endraw\s*-?%\}")
_OPENS = re.compile(r"(?P<note>\{#)|(?P<comment><!--)(?!\[if\b)|<(?P<tag>style|script)\b[^<>]*>", re.IGNORECASE)
_CLOSES = {
    opening: re.compile(closing, re.IGNORECASE)
    for opening, closing in {"{#": "#}", "<!--": "-->", "style": "</style", "script": "</script"}.items()
}


class Position(int):
    """A line number that knows its column; both count from 1."""

    column: int

    def __new__(cls, line: int, column: int) -> "Position":
        position = super().__new__(cls, line)
        position.column = column
        return position


def position_of(node: nodes.Node) -> Position:
    """Where a node stands."""
    for candidate in chain((node,), node.find_all(nodes.Node)):  # what Jinja wraps around a node has no place
        if isinstance(candidate.lineno, Position):
            return candidate.lineno
    return Position(1, 1)


def position_in(text: str, offset: int) -> Position:
    """The position of an offset in a text."""
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def parse(part: Part, source: str) -> nodes.Template:
    """The syntax tree of a template. Raises TemplateError."""
    environment = _Environment(autoescape=False, keep_trailing_newline=True)
    if part == "html":
        source, environment.sharp = _without_css_comments(source)
    try:
        return Parser(environment, source).parse()
    except TemplateSyntaxError as error:
        line = error.lineno
        column = line.column if isinstance(line, Position) else 1
        raise TemplateError(part, line, column, _in_our_words(error, source)) from None
    except _TooManyStepsError as error:
        raise TemplateError(
            part, error.position, error.position.column, f"more than {MAX_STEPS} words and signs in braces"
        ) from None
    except (ValueError, OverflowError):  # Jinja lets through what int() says to a number of thousands of digits
        raise TemplateError(part, 1, 1, "holds a number that is too long; make it text, in quotes") from None
    except RecursionError:
        raise TemplateError(part, 1, 1, "nested too deeply; take some of the nesting out") from None


def raw_text(html: str) -> Iterator[tuple[int, int]]:
    """Where the contents of <style> and <script> begin and end."""
    offset = 0
    absent: set[str] = set()  # what closes nothing any more, and is not looked for again
    while found := _OPENS.search(html, offset):
        opening = found.group().lower() if not found["tag"] else found["tag"].lower()
        closed = None if opening in absent else _CLOSES[opening].search(html, found.end())
        if closed is None:
            absent.add(opening)
            offset = found.end()
            continue
        if found["tag"]:
            yield found.end(), closed.start()
        offset = closed.end()


def unused_characters(used: Collection[str]) -> tuple[str, str]:
    """Two private-use characters that are not among the used ones. Raises TemplateError if there are none."""
    unused = (one for one in map(chr, range(0xE000, 0xF900)) if one not in used)
    first, second = next(unused, ""), next(unused, "")
    if not second:
        raise TemplateError("html", 1, 1, "holds every private-use character from U+E000 to U+F8FF; remove two of them")
    return first, second


def notes(source: str) -> Iterator[tuple[int, str]]:
    """The comments of a template with their offsets."""
    opens, end = _RAW_OR_NOTE, 0
    while found := opens.search(source, end):
        if found[0] == "{#":
            stop = source.find("#}", found.end())
            if stop < 0:
                return
            end = stop + 2
            yield found.start(), source[found.start() : end]
        elif closed := _END_RAW.search(source, found.end()):
            end = closed.end()
        else:  # nor is any after it: looking for an end from each would take minutes
            opens, end = _NOTE, found.end()


def _without_css_comments(html: str) -> tuple[str, str]:
    """The HTML where `{#` in style and script does not open a comment, and the character that stands for its `#`."""
    sharp = unused_characters(set(html))[0]
    pieces, end = [], 0
    for start, stop in raw_text(html):
        pieces += [html[end:start], html[start:stop].replace("{#", "{" + sharp)]
        end = stop
    return "".join(pieces) + html[end:], sharp


def _in_our_words(error: TemplateSyntaxError, source: str) -> str:
    message = (error.message or "").rstrip(".")
    if "end of comment tag" in message:
        return "{# opens a note and no #} closes it; to print these characters write {{ '{#' }}"
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    position = error.lineno
    if isinstance(position, Position):
        lines = text.split("\n")
        offset = sum(len(line) + 1 for line in lines[: position - 1]) + position.column - 1
        start = max(text.rfind("{{", 0, offset + 2), text.rfind("{%", 0, offset + 2))
        start -= text[start - 1 : start] == "{"  # {{{
        if start >= 0 and (ours := hint(text[start : start + 200])):
            return ours
    for pattern, words in _WORDS:
        if found := pattern.search(message):
            return found.expand(words)
    for jinja, ours in _TOKENS.items():
        message = message.replace(jinja, ours)
    return f"{message}. Check the braces and quotes around it."


# What Jinja says, and what it means to the author of an email.
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        ("unexpected char ['\"]([\u2018-\u201f\u00ab\u00bb])", "\\1 is no quote here; write ' or \" instead"),
        (
            "unexpected char '&'|got '&",
            "an entity such as &nbsp; or &quot; stands inside the braces; write the character itself",
        ),
        (
            "unexpected '<'|unexpected '/'|got '<'",
            "HTML tags stand inside the braces, put there by an editor; write {{ name }} without them",
        ),
        (
            "Expected an expression, got '(?:end of|begin of)",
            "nothing stands inside the braces; write the name of a field",
        ),
        ("^unexpected end of template", "the braces are not closed; write }} or %}"),
        ("needs to be closed is 'if'", "an {% if %} is not closed; write {% endif %}"),
        (
            "needs to be closed is 'for'",
            "loops are not available in messages; import the finished text as a field instead",
        ),
        ("needs to be closed is '(\\w+)'", r"{% \1 %} is not available in messages, and it is not closed"),
        ("unknown tag '(endif|else|elif)'", r"{% \1 %} stands here without an {% if %} before it"),
        ("unknown tag '(\\w+)'", r"unknown tag '\1'; possible are if, elif, else, endif and raw"),
    )
)
_TOKENS = {
    "end of print statement": "}}",
    "begin of print statement": "{{",
    "end of statement block": "%}",
    "begin of statement block": "{%",
}


class _TooManyStepsError(Exception):
    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position


class _PositionLexer(Lexer):
    def __init__(self, environment: "_Environment") -> None:
        super().__init__(environment)
        self._sharp = environment.sharp

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        text = source.replace("\r\n", "\n").replace("\r", "\n")
        offset = steps = 0
        position = Position(1, 1)
        try:
            for _, token, value in super().tokeniter(text, name, filename, state):
                start = text.find(value, offset)  # stripped whitespace is skipped by looking ahead
                position = _advance(position, text[offset:start])
                if token == "data":
                    yield position, token, value.replace(self._sharp, "#") if self._sharp else value
                else:
                    steps += token != "whitespace"
                    yield position, token, value
                if steps > MAX_STEPS:
                    raise _TooManyStepsError(position)
                position = _advance(position, value)
                offset = start + len(value)
        except TemplateSyntaxError as error:
            if not isinstance(error.lineno, Position):
                error.lineno = position
            raise


class _Environment(Environment):
    sharp = ""
    """The character that stands for the `#` of a `{#` in style and script."""

    @property
    def lexer(self) -> Lexer:
        return _PositionLexer(self)


def _advance(position: Position, text: str) -> Position:
    lines = text.count("\n")
    if lines:
        return Position(position + lines, len(text) - text.rfind("\n"))
    return Position(int(position), position.column + len(text))
