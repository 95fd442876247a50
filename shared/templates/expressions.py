"""Expressions inside `{{ }}` and `{% if %}`: what is allowed, and their compilation into functions.

Allowed: field names, constants, comparisons, `in` a list of constants, and/or/not, `a if b else c`, `is defined`, and
the filters below. Everything else is refused with its place. What depends on no field is computed here, once.

A *needed* name must have a value; elsewhere (under `default`, in tests) an absent value counts as None. Null and the
empty string count as absent for `default`, because an empty cell of a CSV file is an empty string.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.filters import do_capitalize, do_title
from jinja2.utils import url_quote

from shared.templates.errors import Part, TemplateError
from shared.templates.limits import MAX_DEPTH, MAX_FILTERED_CHARACTERS, MAX_VALUE_CHARACTERS
from shared.templates.pieces import Expression, Missing, TooLong
from shared.templates.syntax import position_of
from shared.templates.uses import Uses
from shared.templates.values import Value, Values, equal, holds, ordered

_FILTERS: Mapping[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": do_title,
    "capitalize": do_capitalize,
    "trim": str.strip,
    "urlencode": url_quote,
}
_DEFAULT = ("default", "d")
_TESTS: Mapping[str, Callable[[object], bool]] = {
    "defined": lambda value: value is not None,
    "undefined": lambda value: value is None,
    "none": lambda value: value is None,
}
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "lt": ordered(operator.lt),
    "lteq": ordered(operator.le),
    "gt": ordered(operator.gt),
    "gteq": ordered(operator.ge),
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    **_ORDERED,
    "eq": equal,
    "ne": lambda left, right: not equal(left, right),
    "in": lambda item, among: any(equal(item, other) for other in among),
    "notin": lambda item, among: not any(equal(item, other) for other in among),
}
_REFUSED: Mapping[type[nodes.Node], str] = {
    nodes.Call: "calls are not available in messages; import the result as a field instead",
    nodes.Getattr: "fields have no attributes; use a plain field name, such as order_id instead of order.id",
    nodes.Getitem: "fields have no items; use a plain field name, such as order_id instead of order['id']",
    nodes.Test: f"only the tests {', '.join(_TESTS)} are available",
    nodes.List: "a list can only stand after 'in'",
    nodes.Tuple: "a list can only stand after 'in'",
    nodes.Dict: "dictionaries are not available in messages",
    nodes.Concat: "joining with ~ is not available; write the pieces one after the other",
    nodes.BinExpr: "arithmetic is not available in messages; import the result as a field instead",
    nodes.UnaryExpr: "arithmetic is not available in messages; import the result as a field instead",
}


class _Constant:
    """An expression without fields."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self, _values: Values) -> object:
        return self.value


class ExpressionCompiler:
    """Compiles the expressions of one part, and reports to `uses` what each needs of its fields.

    `filters` is how many filters the part has: they share the characters that filters may read for one message."""

    def __init__(self, part: Part, uses: Uses, filters: int) -> None:
        self._part = part
        self._uses = uses
        self._depth = 0
        self._longest = min(MAX_VALUE_CHARACTERS, MAX_FILTERED_CHARACTERS // max(1, filters))

    def compile(self, node: nodes.Node, *, needed: bool) -> Expression:
        """A function from a recipient's values to the value. Raises TemplateError."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(node, f"more than {MAX_DEPTH} steps inside each other; make the expression simpler")
        compiled = self._compile(node, needed)
        self._depth -= 1
        return compiled

    def _compile(self, node: nodes.Node, needed: bool) -> Expression:
        match node:
            case nodes.Name():
                return self._name(node, needed)
            case nodes.Const(value=str() | int() | float() | None as constant):
                if isinstance(constant, str) and len(constant) > MAX_VALUE_CHARACTERS:
                    raise self._error(node, f"a text in quotes of more than {MAX_VALUE_CHARACTERS} characters")
                return _Constant(constant)
            case nodes.Filter():
                return self._filter(node, needed)
            case nodes.Compare():
                return self._compare(node)
            case nodes.And():
                return self._and(node, needed)
            case nodes.Or():
                return self._or(node, needed)
            case nodes.Not():
                inverted = self.condition(node.node)
                return lambda values: not holds(inverted(values))
            case nodes.CondExpr():
                return self._conditional(node, needed)
            case nodes.Test(name=name) if name in _TESTS and not (node.args or node.kwargs):
                tested, test = self.compile(node.node, needed=False), _TESTS[name]
                return lambda values: test(tested(values))
        raise self._error(
            node, next((text for kind, text in _REFUSED.items() if isinstance(node, kind)), "not available")
        )

    def condition(self, node: nodes.Node) -> Expression:
        """An expression of which only the truth matters. Raises TemplateError."""
        compiled = self.compile(node, needed=False)
        if isinstance(node, nodes.Name):
            self._uses.decides(node.name)
        return compiled

    def _name(self, node: nodes.Name, needed: bool) -> Expression:
        name = node.name
        self._uses.add(name, needed, self._part, position_of(node))
        if not needed:
            return lambda values: values.get(name)

        def value_of(values: Values) -> Value:
            value = values.get(name)
            if value is None:
                raise Missing(name)
            return value

        return value_of

    def _and(self, node: nodes.And, needed: bool) -> Expression:
        first, second = self.compile(node.left, needed=needed), self.compile(node.right, needed=needed)
        for side in (node.left, node.right):
            if isinstance(side, nodes.Name):
                self._uses.decides(side.name)

        def both(values: Values) -> object:
            value = first(values)
            return second(values) if holds(value) else value

        return both

    def _or(self, node: nodes.Or, needed: bool) -> Expression:
        first, second = self.condition(node.left), self.compile(node.right, needed=needed)

        def either(values: Values) -> object:
            value = first(values)
            return value if holds(value) else second(values)

        return either

    def _filter(self, node: nodes.Filter, needed: bool) -> Expression:
        if node.node is None or node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise self._error(node, f"write the filter {node.name!r} as in {{{{ name|{node.name} }}}}")
        if node.name in _DEFAULT:
            return self._default(node, needed)
        if node.name not in _FILTERS:
            raise self._error(
                node,
                f"there is no filter {node.name!r}; available: default, {', '.join(_FILTERS)} "
                "(values are escaped in HTML by themselves)",
            )
        if node.args:
            raise self._error(node, f"the filter {node.name!r} takes no arguments")
        filtered, apply, longest = self.compile(node.node, needed=needed), _FILTERS[node.name], self._longest

        def applied(values: Values) -> Value:
            value = filtered(values)
            if value is None:
                return None
            text = str(value)
            if len(text) > longest:
                raise TooLong
            text = apply(text)
            if len(text) > MAX_VALUE_CHARACTERS:
                raise TooLong
            return text

        return self._folded(node, applied) if isinstance(filtered, _Constant) else applied

    def _folded(self, node: nodes.Filter, applied: Expression) -> Expression:
        try:
            return _Constant(applied({}))
        except TooLong:
            message = f"the filter {node.name!r} reads or returns too long a text; write the result out"
            raise self._error(node, message) from None

    def _default(self, node: nodes.Filter, needed: bool) -> Expression:
        if node.node is None or len(node.args) not in (1, 2):
            raise self._error(node, "say what the default is: default('friend')")
        value_of = self.compile(node.node, needed=False)
        otherwise = self.compile(node.args[0], needed=needed)
        stands_in_for_false = len(node.args) == 2  # as in Jinja: default('x', true) stands in for 0 and false too

        def defaulted(values: Values) -> object:
            value = value_of(values)
            absent = not holds(value) if stands_in_for_false else value is None or value == ""
            return otherwise(values) if absent else value

        return defaulted

    def _conditional(self, node: nodes.CondExpr, needed: bool) -> Expression:
        test = self.condition(node.test)
        first = self.compile(node.expr1, needed=needed)
        second = self.compile(node.expr2 or nodes.Const(None), needed=needed)
        return lambda values: first(values) if holds(test(values)) else second(values)

    def _compare(self, node: nodes.Compare) -> Expression:
        first = self.compile(node.expr, needed=False)
        rest = [(_COMPARISONS[operand.op], self._operand(operand)) for operand in node.ops]
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        for left, operand, right in zip(sides, node.ops, sides[1:], strict=False):
            if operand.op in _ORDERED:
                self._uses.ordered(left, right)

        def compared(values: Values) -> bool:
            left: Any = first(values)
            for compare, operand in rest:
                right = operand(values)
                if not compare(left, right):
                    return False
                left = right
            return True

        return compared

    def _operand(self, operand: nodes.Operand) -> Callable[[Values], Any]:
        if operand.op not in ("in", "notin"):
            return self.compile(operand.expr, needed=False)
        items = operand.expr
        if not isinstance(items, nodes.List | nodes.Tuple):
            raise self._error(operand.expr, "write a list after 'in', such as ['DE', 'AT']")
        if not all(isinstance(item, nodes.Const) for item in items.items):
            raise self._error(operand.expr, "the list after 'in' can only hold constants, such as ['DE', 'AT']")
        among = tuple(item.as_const() for item in items.items)
        return lambda _values: among

    def _error(self, node: nodes.Node, message: str) -> TemplateError:
        position = position_of(node)
        return TemplateError(self._part, position, position.column, message)
