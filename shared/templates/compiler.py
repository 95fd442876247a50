"""From source to pieces: walks the syntax tree of one part and lets nothing through that is not allowed."""

from collections.abc import Callable, Iterator

from jinja2 import nodes

from shared.templates.errors import Part, TemplateError
from shared.templates.expressions import ExpressionCompiler
from shared.templates.html_places import HtmlPlaces
from shared.templates.pieces import Branch, Expression, Node, Nodes, Output, Template
from shared.templates.syntax import parse, position_of

_MAX_NESTING = 50

_REFUSED: dict[type[nodes.Node], str] = {
    nodes.For: "loops are not available in messages; import the finished text as a merge field instead",
    nodes.Assign: "set is not available in messages; import the value as a merge field instead",
    nodes.AssignBlock: "set is not available in messages; import the value as a merge field instead",
    nodes.Macro: "macros are not available in messages; write the text out",
    nodes.CallBlock: "macros are not available in messages; write the text out",
    nodes.Include: "include is not available in messages; put the text here",
    nodes.Import: "import is not available in messages; put the text here",
    nodes.FromImport: "import is not available in messages; put the text here",
    nodes.Extends: "extends is not available in messages; put the text here",
    nodes.Block: "blocks are not available in messages; put the text here",
    nodes.FilterBlock: "filter blocks are not available; put the filter behind each field",
    nodes.Scope: "autoescape is not available; values are escaped in HTML, and only there",
    nodes.With: "with is not available in messages; use the fields directly",
}


def compile_part(part: Part, source: str, used: Callable[[str, bool, int, int], None]) -> Template:
    """Compiles one part, calling `used(name, needed, line, column)` for each field. Raises TemplateError."""
    return Template(part, _Compiler(part, used).compile(parse(part, source)))


class _Compiler:
    def __init__(self, part: Part, used: Callable[[str, bool, int, int], None]) -> None:
        self._part = part
        self._report = used
        self._expressions = ExpressionCompiler(part, self._used)
        self._places = HtmlPlaces() if part == "html" else None
        self._guarded: list[frozenset[str]] = []

    def compile(self, tree: nodes.Template) -> Nodes:
        compiled = self._nodes(tree.body)
        if self._places and (where := self._places.unfinished()):
            raise TemplateError(self._part, 1, 1, f"the HTML ends inside {where}; close it")
        return compiled

    def _nodes(self, body: list[nodes.Node]) -> Nodes:
        return tuple(_joined(self._each(body)))

    def _each(self, body: list[nodes.Node]) -> Iterator[Node]:
        for node in body:
            if isinstance(node, nodes.Output):
                for child in node.nodes:
                    yield self._text(child) if isinstance(child, nodes.TemplateData) else self._output(child)
            elif isinstance(node, nodes.If):
                yield self._branch(node)
            else:
                message = _REFUSED.get(type(node), "only {{ fields }} and {% if %} are available in messages")
                raise self._error(node, message)

    def _text(self, node: nodes.TemplateData) -> str:
        try:
            node.data.encode()
        except UnicodeEncodeError:
            raise self._error(node, "holds half of a character (a lone surrogate); remove it") from None
        if self._places:
            self._places.text(node.data)
        return node.data

    def _output(self, node: nodes.Expr) -> Output:
        starts_link = False
        if self._places:
            refusal = self._places.refusal()
            if refusal:
                raise self._error(node, refusal)
            starts_link = self._places.value()
        expression = self._expressions.compile(node, needed=True)
        field = next((name.name for name in [node, *node.find_all(nodes.Name)] if isinstance(name, nodes.Name)), "")
        return Output(expression, field, starts_link)

    def _branch(self, node: nodes.If) -> Branch:
        if len(self._guarded) >= _MAX_NESTING:
            raise self._error(node, f"more than {_MAX_NESTING} ifs inside each other; take some out")
        before = self._places.place if self._places else None
        ends = []
        choices: list[tuple[Expression, Nodes]] = []
        for test, body in [
            (node.test, node.body),
            *((other.test, other.body) for other in node.elif_),
            (None, node.else_),
        ]:
            if self._places and before:
                self._places.place = before
            compiled_test = self._expressions.compile(test, needed=False) if test else _always
            self._guarded.append(frozenset(_sure_of(test)) if test else frozenset())
            compiled = self._nodes(body)
            self._guarded.pop()
            if test or compiled:
                choices.append((compiled_test, compiled))
            if self._places:
                ends.append(self._places.place)
        if self._places and not self._places.join(ends):
            raise self._error(
                node,
                "the branches of this if end at different places of the HTML; close tags and quotes where they open",
            )
        return Branch(tuple(choices))

    def _used(self, name: str, needed: bool, line: int, column: int) -> None:
        self._report(name, needed and not any(name in guarded for guarded in self._guarded), line, column)

    def _error(self, node: nodes.Node, message: str) -> TemplateError:
        position = position_of(node)
        return TemplateError(self._part, position, position.column, message)


def _always(_values: object) -> bool:
    return True


def _sure_of(test: nodes.Node) -> Iterator[str]:
    """The fields that have a value wherever the test holds."""
    if isinstance(test, nodes.Name):
        yield test.name
    elif isinstance(test, nodes.And):
        yield from _sure_of(test.left)
        yield from _sure_of(test.right)
    elif isinstance(test, nodes.Test) and test.name == "defined" and isinstance(test.node, nodes.Name):
        yield test.node.name


def _joined(each: Iterator[Node]) -> Iterator[Node]:
    """Neighbouring pieces of fixed text (around comments) as one."""
    text = ""
    for node in each:
        if isinstance(node, str):
            text += node
            continue
        if text:
            yield text
            text = ""
        yield node
    if text:
        yield text
