"""The content of a campaign: three templates compiled together, and what they need of a recipient's data."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.header_text import UNSAFE_IN_HEADER
from shared.templates.compiler import compile_part
from shared.templates.errors import Part, RenderError, TemplateError
from shared.templates.foreign_tags import foreign_tags
from shared.templates.html_parser import HtmlParser
from shared.templates.html_places import find_places
from shared.templates.limits import (
    MAX_BODY_CHARACTERS,
    MAX_MESSAGE_BYTES,
    MAX_READING_SECONDS,
    MAX_READING_STORED_SECONDS,
    MAX_SUBJECT_CHARACTERS,
)
from shared.templates.pieces import Output, Template, walk
from shared.templates.plain_text import derive_text
from shared.templates.syntax import notes, position_in, raw_text
from shared.templates.uses import FieldUse, Uses
from shared.templates.values import is_blank

_WORDS_OF_THE_LANGUAGE = frozenset(
    {"and", "or", "not", "in", "is", "if", "elif", "else", "endif", "true", "false", "none", "True", "False", "None"}
)
_TODAY = "new content like this is refused"
_EXAMPLE = {"email": "ann@example.com", "unsubscribe_url": "https://example.com/u/token"}


@dataclass(frozen=True, slots=True)
class ContentWarning:
    """What may not be meant in content that can be sent; line and column count from 1."""

    part: Part
    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True)
class DataProblem:
    """Why a recipient's data does not fit the content: the field at fault, and a sentence for a person."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Content:
    """Compiled content."""

    subject: Template
    html: Template | None
    text: Template  # empty where none could be derived from stored content
    max_message_bytes: int  # of a message on the wire, without attachments
    fields: Mapping[str, FieldUse]  # what it needs of each field, without the built-in ones, in order of use
    needs: tuple[FieldUse, ...]  # those of them that a value may fail
    plain_needs: tuple[str, ...]  # their names, if a line of text fits each; else empty
    warnings: tuple[ContentWarning, ...]

    def missing(self, known: Collection[str]) -> list[FieldUse]:
        """The required fields that are not among the known ones, in order of use."""
        return [use for use in self.fields.values() if use.required and use.name not in known]

    def problem(self, data: Mapping[str, Any]) -> DataProblem | None:
        """What is certain to be wrong with one recipient's data; None if it can be sent."""
        for name in self.plain_needs:  # the usual case, without a call for each
            value = data.get(name)
            if type(value) is not str or not value.isprintable() or value.isspace() or not value:
                break
        else:
            if self.plain_needs:
                return None
        found = None
        for use in self.needs:
            value = data.get(use.name)
            if message := use.objection(value):
                found = found or DataProblem(use.name, message)
                if use.required and is_blank(value):
                    return DataProblem(use.name, message)
        if found is None:
            return None
        try:  # whether a value matters may depend on others, such as a link inside an if
            for template in self.templates():
                template.render({**data, **_EXAMPLE})
        except RenderError:
            return found
        return None

    def templates(self) -> list[Template]:
        """The parts there are."""
        return [template for template in (self.subject, self.html, self.text) if template]


def compile_content(
    subject: str,
    html: str | None,
    text: str | None,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    is_stored: bool = False,
) -> Content:
    """Checks and compiles a message. Absent text is derived from the HTML.

    `is_stored`: it was accepted before, perhaps by an older release. What that release took and this one would refuse
    is a warning, if it can be sent safely; where no text can be derived, there is none.

    Raises TemplateError, which says part, line and column, for anything outside the safe subset."""
    if not html and not text:
        raise TemplateError("text", 1, 1, "the message is empty; give html, text or both")
    _check_subject(subject)
    sources: list[tuple[Part, str]] = [("subject", subject)]
    if html:
        sources.append(("html", _checked_length("html", html)))
    if text:
        sources.append(("text", _checked_length("text", text)))
    uses = Uses()
    parts = {part: compile_part(part, source, uses) for part, source in sources}
    doubts: list[TemplateError] = []
    if html:
        parser = HtmlParser(MAX_READING_STORED_SECONDS if is_stored else MAX_READING_SECONDS)
        places = find_places(parts["html"], parser, doubts if is_stored else None)
        for output in walk(parts["html"]):
            if isinstance(output, Output) and output.starts_link:
                uses.starts_link(output.field)
        if not text:
            try:
                parts["text"] = derive_text(parts["html"], places, parser)
            except TemplateError as error:
                if not is_stored:
                    raise
                doubts.append(error)
                parts["text"] = ()
    needs = tuple(use for use in uses.fields.values() if use.is_demanding)
    return Content(
        subject=Template("subject", parts["subject"]),
        html=Template("html", parts["html"], max_message_bytes) if html else None,
        text=Template("text", parts["text"], max_message_bytes),
        max_message_bytes=max_message_bytes,
        fields=uses.fields,
        needs=needs,
        plain_needs=tuple(use.name for use in needs) if all(use.takes_any_text for use in needs) else (),
        warnings=(
            *(warning for part, source in sources for warning in _warnings(part, source)),
            *(ContentWarning(one.part, one.line, one.column, f"{one.message} ({_TODAY})") for one in doubts),
        ),
    )


def is_field_name(name: str) -> bool:
    """Whether recipients' data under this name can be used in a template: letters, digits and _, no leading digit."""
    return name.isidentifier() and name not in _WORDS_OF_THE_LANGUAGE


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


def _checked_length(part: Part, source: str) -> str:
    if len(source) > MAX_BODY_CHARACTERS:
        raise TemplateError(part, 1, 1, f"longer than {MAX_BODY_CHARACTERS} characters")
    return source


def _warnings(part: Part, source: str) -> Iterator[ContentWarning]:
    if part == "html":
        source = _without_raw_text(source)
    for tag in foreign_tags(source):
        position = position_in(source, tag.offset)
        yield ContentWarning(
            part,
            position,
            position.column,
            f"{tag.tag} is not a field here and goes out as it stands; if it is meant as one, "
            f"write {{{{ {tag.ours} }}}}",
        )
    for offset, note in notes(source):
        if part == "subject" or note[2] not in "- \t\n":
            position = position_in(source, offset)
            message = f"{note} is a note and is not sent; to print it write {{% raw %}}{note}{{% endraw %}}"
            yield ContentWarning(part, position, position.column, message)


def _without_raw_text(html: str) -> str:
    """The HTML with spaces for style sheets and scripts, where braces are no merge tags."""
    pieces, end = [], 0
    for start, stop in raw_text(html):
        pieces += [html[end:start], "".join(one if one == "\n" else " " for one in html[start:stop])]
        end = stop
    return "".join(pieces) + html[end:]
