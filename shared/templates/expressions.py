"""Expressions inside `{{ }}` and `{% if %}`: what is allowed, and their compilation into functions.

Allowed: field names, constants, comparisons, `in` a list of constants, and/or/not, `a if b else c`, `is defined`, and
the filters below. Everything else is refused with its place: a campaign's author is not trusted with the sender's CPU.

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
from shared.templates.pieces import Expression, Missing, Value
from shared.templates.syntax import position_of

_FILTERS: Mapping[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": do_title,
    "capitalize": do_capitalize,
    "trim": str.strip,
    "urlencode": url_quote,
}
_DEFAULT = ("default", "d")
_MAX_DEPTH = 50
_TESTS: Mapping[str, Callable[[Value], bool]] = {
    "defined": lambda value: value is not None,
    "undefined": lambda value: value is None,
    "none": lambda value: value is None,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, among: item in among,
    "notin": lambda item, among: item not in among,
}
_REFUSED: Mapping[type[nodes.Node], str] = {
    nodes.Call: "calls are not available in messages; import the result as a merge field instead",
    nodes.Getattr: "fields have no attributes; use a plain field name, such as order_id instead of order.id",
    nodes.Getitem: "fields have no items; use a plain field name, such as order_id instead of order['id']",
    nodes.Test: f"only the tests {', '.join(_TESTS)} are available",
    nodes.List: "a list can only stand after 'in'",
    nodes.Tuple: "a list can only stand after 'in'",
    nodes.Dict: "dictionaries are not available in messages",
    nodes.Concat: "joining with ~ is not available; write the pieces one after the other",
    nodes.BinExpr: "arithmetic is not available in messages; import the result as a merge field instead",
    nodes.UnaryExpr: "arithmetic is not available in messages; import the result as a merge field instead",
}


class ExpressionCompiler:
    """Compiles the expressions of one part, telling `used(name, needed, line, column)` of every field it meets."""

    def __init__(self, part: Part, used: Callable[[str, bool, int, int], None]) -> None:
        self._part = part
        self._used = used
        self._depth = 0

    def compile(self, node: nodes.Node, *, needed: bool) -> Expression:
        """A function from a recipient's values to the value. Raises TemplateError."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(node, f"more than {_MAX_DEPTH} steps inside each other; make the expression simpler")
        compiled = self._compile(node, needed)
        self._depth -= 1
        return compiled

    def _compile(self, node: nodes.Node, needed: bool) -> Expression:
        match node:
            case nodes.Name():
                return self._name(node, needed)
            case nodes.Const(value=str() | int() | float() | None as constant):
                return lambda _values: constant
            case nodes.Filter():
                return self._filter(node, needed)
            case nodes.Compare():
                return self._compare(node)
            case nodes.And():
                first, second = self.compile(node.left, needed=needed), self.compile(node.right, needed=needed)
                return lambda values: first(values) and second(values)
            case nodes.Or():
                first, second = self.compile(node.left, needed=False), self.compile(node.right, needed=needed)
                return lambda values: first(values) or second(values)
            case nodes.Not():
                inverted = self.compile(node.node, needed=False)
                return lambda values: not inverted(values)
            case nodes.CondExpr():
                return self._conditional(node, needed)
            case nodes.Test(name=name) if name in _TESTS and not (node.args or node.kwargs):
                tested, test = self.compile(node.node, needed=False), _TESTS[name]
                return lambda values: test(tested(values))
        raise self._error(
            node, next((text for kind, text in _REFUSED.items() if isinstance(node, kind)), "not available")
        )

    def _name(self, node: nodes.Name, needed: bool) -> Expression:
        name, position = node.name, position_of(node)
        self._used(name, needed, position, position.column)
        if not needed:
            return lambda values: values.get(name)

        def value_of(values: Mapping[str, Value]) -> Value:
            value = values.get(name)
            if value is None:
                raise Missing(name)
            return value

        return value_of

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
        filtered, apply = self.compile(node.node, needed=needed), _FILTERS[node.name]

        def applied(values: Mapping[str, Value]) -> Value:
            value = filtered(values)
            return None if value is None else apply(str(value))

        return applied

    def _default(self, node: nodes.Filter, needed: bool) -> Expression:
        if node.node is None or len(node.args) not in (1, 2):
            raise self._error(node, "say what the default is: default('friend')")
        value_of = self.compile(node.node, needed=False)
        otherwise = self.compile(node.args[0], needed=needed)

        if len(node.args) == 2:  # as in Jinja: default('x', true) stands in for 0 and false too
            return lambda values: value_of(values) or otherwise(values)

        def defaulted(values: Mapping[str, Value]) -> Value:
            value = value_of(values)
            return otherwise(values) if value is None or value == "" else value

        return defaulted

    def _conditional(self, node: nodes.CondExpr, needed: bool) -> Expression:
        test = self.compile(node.test, needed=False)
        first = self.compile(node.expr1, needed=needed)
        second = self.compile(node.expr2 or nodes.Const(None), needed=needed)
        return lambda values: first(values) if test(values) else second(values)

    def _compare(self, node: nodes.Compare) -> Expression:
        first = self.compile(node.expr, needed=False)
        rest = [(_COMPARISONS[operand.op], self._operand(operand)) for operand in node.ops]

        def compared(values: Mapping[str, Value]) -> bool:
            left: Any = first(values)
            for compare, operand in rest:
                right = operand(values)
                if not compare(left, right):
                    return False
                left = right
            return True

        return compared

    def _operand(self, operand: nodes.Operand) -> Callable[[Mapping[str, Value]], Any]:
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
