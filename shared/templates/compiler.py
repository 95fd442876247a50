"""From source to pieces: walks the syntax tree of one part and lets nothing through that is not allowed."""

from collections.abc import Iterator

from jinja2 import nodes

from shared.templates.errors import Part, TemplateError
from shared.templates.expressions import ExpressionCompiler
from shared.templates.limits import MAX_DEPTH
from shared.templates.pieces import Branch, Expression, Node, Nodes, Output, always
from shared.templates.syntax import parse, position_of
from shared.templates.uses import Uses

_REFUSED: dict[type[nodes.Node], str] = {
    nodes.For: "loops are not available in messages; import the finished text as a field instead",
    nodes.Assign: "set is not available in messages; import the value as a field instead",
    nodes.AssignBlock: "set is not available in messages; import the value as a field instead",
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


def compile_part(part: Part, source: str, uses: Uses) -> Nodes:
    """Compiles one part and reports to `uses` what it needs of each field. Raises TemplateError."""
    tree = parse(part, source)
    return _Compiler(part, uses, filters=sum(1 for _ in tree.find_all(nodes.Filter))).compile(tree.body)


class _Compiler:
    def __init__(self, part: Part, uses: Uses, filters: int) -> None:
        self._part = part
        self._uses = uses
        self._expressions = ExpressionCompiler(part, uses, filters)
        self._depth = 0

    def compile(self, body: list[nodes.Node]) -> Nodes:
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
        return node.data

    def _output(self, node: nodes.Expr) -> Output:
        expression = self._expressions.compile(node, needed=True)
        field = next((name.name for name in [node, *node.find_all(nodes.Name)] if isinstance(name, nodes.Name)), "")
        return Output(expression, field, position_of(node))

    def _branch(self, node: nodes.If) -> Branch:
        if self._depth >= MAX_DEPTH:
            raise self._error(node, f"more than {MAX_DEPTH} ifs inside each other; take some out")
        self._depth += 1
        choices: list[tuple[Expression, Nodes]] = []
        for one in (node, *node.elif_):
            test = self._expressions.condition(one.test)
            with self._uses.guarded(one.test):
                choices.append((test, self.compile(one.body)))
        with self._uses.guarded(None):
            otherwise = self.compile(node.else_)
        if otherwise:
            choices.append((always, otherwise))
        self._depth -= 1
        return Branch(tuple(choices), position_of(node), repr([one.test for one in (node, *node.elif_)]))

    def _error(self, node: nodes.Node, message: str) -> TemplateError:
        position = position_of(node)
        return TemplateError(self._part, position, position.column, message)


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
