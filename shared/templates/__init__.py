"""Subject, HTML and text of a message in a safe subset of Jinja2: checked once, compiled once, rendered fast."""

from shared.templates.content import BUILT_IN_FIELDS, Content, FieldUse, compile_content, is_field_name
from shared.templates.errors import MissingFieldError, Part, RenderError, TemplateError
from shared.templates.pieces import MAX_VALUE_CHARACTERS, Template, Value, Values

__all__ = [
    "BUILT_IN_FIELDS",
    "MAX_VALUE_CHARACTERS",
    "Content",
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
