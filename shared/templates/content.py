"""The content of a campaign: three templates compiled together, and the merge fields they use."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from shared.header_text import UNSAFE_IN_HEADER
from shared.templates.compiler import compile_part
from shared.templates.errors import Part, TemplateError
from shared.templates.pieces import Template, Values
from shared.templates.plain_text import derive_text

BUILT_IN_FIELDS = frozenset({"email", "unsubscribe_url"})
MAX_SUBJECT_CHARACTERS = 2_000
MAX_BODY_CHARACTERS = 1_000_000

_WORDS_OF_THE_LANGUAGE = frozenset(
    {"and", "or", "not", "in", "is", "if", "elif", "else", "endif", "true", "false", "none", "True", "False", "None"}
)


@dataclass(frozen=True, slots=True)
class FieldUse:
    """Where a merge field is used: its first needed use if it has one, else its first use.

    `required`: some use of it has neither a `default` nor an `if` around it, so every recipient must have a value."""

    name: str
    required: bool
    part: Part
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """One recipient's message as text, line ends as LF."""

    subject: str
    html: str | None
    text: str


class Content:
    """Compiled content. `fields` are the merge fields it uses, without the built-in ones."""

    __slots__ = ("fields", "html", "subject", "text")

    def __init__(
        self, subject: Template, html: Template | None, text: Template, fields: Mapping[str, FieldUse]
    ) -> None:
        self.subject = subject
        self.html = html
        self.text = text
        self.fields = fields

    def missing(self, known: Collection[str]) -> list[FieldUse]:
        """The required fields that are not among the known ones, in order of use."""
        return [use for use in self.fields.values() if use.required and use.name not in known]

    def render(self, values: Values) -> Rendered:
        """The message of one recipient, for a preview. Raises RenderError."""
        return Rendered(
            self.subject.render(values),
            self.html.render(values) if self.html else None,
            self.text.render(values),
        )


def compile_content(subject: str, html: str | None, text: str | None, fields: Collection[str] | None = None) -> Content:
    """Checks and compiles a message. Absent text is derived from the HTML.

    `fields` are the merge fields the recipients have, or None while nobody knows them. Raises TemplateError, which
    says part, line and column, for anything outside the safe subset and for a required field that is not known.
    """
    uses: dict[str, FieldUse] = {}
    if not html and not text:
        raise TemplateError("text", 1, 1, "the message is empty; give html, text or both")
    _check_subject(subject)
    for part, source in (("html", html), ("text", text)):
        if source and len(source) > MAX_BODY_CHARACTERS:
            raise TemplateError(
                "html" if part == "html" else "text", 1, 1, f"longer than {MAX_BODY_CHARACTERS} characters"
            )

    def compiled(part: Part, source: str) -> Template:
        def used(name: str, needed: bool, line: int, column: int) -> None:
            known = uses.get(name)
            if name not in BUILT_IN_FIELDS and (known is None or (needed and not known.required)):
                uses[name] = FieldUse(name, needed, part, line, column)

        return compile_part(part, source, used)

    compiled_subject = compiled("subject", subject)
    compiled_html = compiled("html", html) if html else None
    compiled_text = compiled("text", text) if text else _derived(html or "", compiled)
    content = Content(compiled_subject, compiled_html, compiled_text, uses)
    if fields is not None:
        for use in content.missing(fields):
            raise TemplateError(use.part, use.line, use.column, _unknown(use.name, fields))
    return content


def is_field_name(name: str) -> bool:
    """Whether recipients' data under this name can be used in a template: letters, digits and _, no leading digit."""
    return name.isidentifier() and name not in _WORDS_OF_THE_LANGUAGE


def _derived(html: str, compiled: Callable[[Part, str], Template]) -> Template:
    try:
        return compiled("text", derive_text(html))
    except TemplateError as error:
        message = "no text could be derived from the HTML, because an if begins and ends in different tags"
        raise TemplateError("html", 1, 1, f"{message}; give the text yourself") from error


def _check_subject(subject: str) -> None:
    if not subject.strip():
        raise TemplateError("subject", 1, 1, "the subject is empty; write one")
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        raise TemplateError("subject", 1, 1, f"longer than {MAX_SUBJECT_CHARACTERS} characters")
    unsafe = UNSAFE_IN_HEADER.search(subject)
    if unsafe:
        raise TemplateError(
            "subject",
            1,
            unsafe.start() + 1,
            f"holds {unsafe.group()!r}; a subject is one line without control characters",
        )


def _unknown(name: str, fields: Collection[str]) -> str:
    close = difflib.get_close_matches(name, [*fields, *BUILT_IN_FIELDS], n=1)
    hint = f"did you mean {close[0]!r}? Or import it" if close else "import it"
    return f"the recipients have no field {name!r}; {hint}, or give it a default: {{{{ {name}|default('...') }}}}"
