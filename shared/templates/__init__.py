"""Subject, HTML and text of a message in a safe subset of Jinja2: checked once, compiled once, rendered fast."""

from shared.templates.content import Content, ContentWarning, DataProblem, compile_content, is_field_name
from shared.templates.errors import MissingFieldError, Part, RenderError, TemplateError
from shared.templates.limits import MAX_MESSAGE_BYTES, MAX_VALUE_CHARACTERS
from shared.templates.pieces import Template
from shared.templates.uses import BUILT_IN_FIELDS, FieldUse
from shared.templates.values import BOOLEAN_WORDS, Value, Values

__all__ = [
    "BOOLEAN_WORDS",
    "BUILT_IN_FIELDS",
    "MAX_MESSAGE_BYTES",
    "MAX_VALUE_CHARACTERS",
    "Content",
    "ContentWarning",
    "DataProblem",
    "FieldUse",
    "MissingFieldError",
    "Part",
    "RenderError",
    "Template",
    "TemplateError",
    "Value",
    "Values",
    "compile_content",
    "is_field_name",
]
