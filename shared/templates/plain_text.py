"""Text for people who do not read HTML, derived from the HTML template with its merge fields in place."""

import re

from shared.templates.errors import TemplateError

_TAGS = re.compile(r"\{#.*?#\}|(\{%-?\s*raw\b.*?\bendraw\s*-?%\}|\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
_STATEMENT_LINE = "(?m)^[ \t]*({open}[0-9]+s{close})[ \t]*\n"


def derive_text(html: str) -> str:
    """A text template with the same merge fields and ifs. Raises TemplateError where there is none to derive.

    Links are kept as [text](target); images, styles and scripts are dropped."""
    from inscriptis import get_text  # it brings lxml, which only content without text needs
    from inscriptis.css_profiles import STRICT_CSS_PROFILE
    from inscriptis.model.config import ParserConfig

    opening, closing = _unused(html, 2)
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        if found[1] is None:
            return ""
        kept.append(found[1])
        return f"{opening}{len(kept) - 1}{'s' if found[1].startswith('{%') else 'v'}{closing}"

    config = ParserConfig(css=STRICT_CSS_PROFILE, display_links=True)
    try:
        text = get_text(_TAGS.sub(keep, html), config)
    except (RecursionError, ValueError, AssertionError) as error:
        raise TemplateError("html", 1, 1, "no text could be derived from it; give the text yourself") from error
    text = re.sub(_STATEMENT_LINE.format(open=opening, close=closing), r"\1", text)
    text = re.sub(f"{opening}([0-9]+)[sv]{closing}", lambda found: kept[int(found[1])], text)
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def _unused(html: str, count: int) -> list[str]:
    """Private-use characters that the HTML does not hold."""
    return [character for character in map(chr, range(0xE000, 0xF8FF)) if character not in html][:count]
