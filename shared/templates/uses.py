"""What a message needs of each field: known when it is compiled, so a recipient's data is checked before it is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jinja2 import nodes

from shared.header_text import UNSAFE_IN_HEADER
from shared.templates.errors import Part
from shared.templates.syntax import Position
from shared.templates.values import can_start_link, is_blank, number_of

BUILT_IN_FIELDS = frozenset({"email", "unsubscribe_url"})


@dataclass(slots=True)
class FieldUse:
    """Where a field is used, and what its value must be there."""

    name: str
    required: bool  # some use has neither a `default` nor an `if` around it: every recipient must have a value
    part: Part  # of its first use that requires a value, else of its first use; line and column too
    line: int
    column: int
    is_number: bool = False  # compared by < and its like with a number
    is_decision: bool = False  # an `if` asks whether it is true
    is_link: bool = False  # stands at the start of a link
    is_one_line: bool = False  # stands in the subject

    @property
    def is_demanding(self) -> bool:
        """Whether there are values that do not fit."""
        return self.required or self.is_number or self.is_link or self.is_one_line

    @property
    def takes_any_text(self) -> bool:
        """Whether any text fits that is one line and not blank."""
        return not (self.is_number or self.is_link)

    def objection(self, value: object) -> str:
        """What may be wrong with a value, in words for a person; empty where nothing is."""
        if self.required and is_blank(value):
            if value is None:
                return f"There is no {self.name!r}, which the message needs."
            instead = f"{{{{ {self.name}|default('...') }}}}"
            return f"The value of {self.name!r} is empty, but the message needs it; fill it in, or write {instead}."
        if self.is_number and number_of(value) is None:
            return f"The value of {self.name!r} must be a number such as 7 or 2.50: the message compares it with one."
        if not isinstance(value, str):
            return ""
        if self.is_link and not can_start_link(value):
            schemes = "https://, http://, mailto:, tel: or sms:"
            return f"The value of {self.name!r} starts a link, so it must begin with {schemes}."
        if self.is_one_line and UNSAFE_IN_HEADER.search(value):
            return f"The value of {self.name!r} stands in the subject, which is one line without control characters."
        return ""


@dataclass(slots=True)
class Uses:
    """Collects the uses of all parts while they are compiled."""

    fields: dict[str, FieldUse] = field(default_factory=dict)
    _guarded: list[frozenset[str]] = field(default_factory=list)

    def add(self, name: str, needed: bool, part: Part, position: Position) -> None:
        """A use; `needed`: without a value nothing can stand there."""
        if name in BUILT_IN_FIELDS:
            return
        needed = needed and not any(name in names for names in self._guarded)
        known = self.fields.get(name)
        if known is None:
            known = self.fields[name] = FieldUse(name, needed, part, position, position.column)
        elif needed and not known.required:
            known.required, known.part, known.line, known.column = True, part, position, position.column
        known.is_one_line = known.is_one_line or part == "subject"

    def decides(self, name: str) -> None:
        if use := self.fields.get(name):
            use.is_decision = True

    def starts_link(self, name: str) -> None:
        if use := self.fields.get(name):
            use.is_link = True

    def ordered(self, left: nodes.Node, right: nodes.Node) -> None:
        """The sides of `<` or its like: a field beside a number must hold one."""
        for side, other in ((left, right), (right, left)):
            is_number = isinstance(other, nodes.Const) and number_of(other.value) is not None
            if is_number and isinstance(side, nodes.Name) and (use := self.fields.get(side.name)):
                use.is_number = True

    @contextmanager
    def guarded(self, test: nodes.Node | None) -> Iterator[None]:
        """While inside a branch: fields that have a value wherever its test holds are not required there."""
        self._guarded.append(frozenset(_sure_of(test)) if test else frozenset())
        try:
            yield
        finally:
            self._guarded.pop()


def _sure_of(test: nodes.Node) -> Iterator[str]:
    """The fields that have a value wherever the test holds."""
    if isinstance(test, nodes.Name):
        yield test.name
    elif isinstance(test, nodes.And):
        yield from _sure_of(test.left)
        yield from _sure_of(test.right)
    elif isinstance(test, nodes.Test) and test.name == "defined" and isinstance(test.node, nodes.Name):
        yield test.node.name
