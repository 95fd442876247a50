"""Text for people who do not read HTML, derived from the HTML template with its merge fields in place."""

import re
from typing import TYPE_CHECKING, Any

from shared.templates.errors import TemplateError
from shared.templates.syntax import split

if TYPE_CHECKING:
    from inscriptis.model.config import ParserConfig

_NOTHING_DERIVED = "no text could be derived from it; give the text yourself"


def derive_text(html: str) -> str:
    """A text template with the same merge fields and ifs, from a valid HTML template. Raises TemplateError.

    Links are kept as [text](target), images as their alternative text; styles, scripts and what is not displayed go."""
    from inscriptis import get_text  # it brings lxml, which only content without text needs
    from lxml.etree import LxmlError

    tags: list[str] = []
    try:
        opening, closing = _unused_characters(html)
        marked = ""
        for kind, piece in split(html):
            if kind == "text":
                marked += piece
            else:
                marked += f"{opening}{kind[0]}{len(tags)}{closing}"
                tags.append(piece)
        text = get_text(marked, _inscriptis_config())
    except (RecursionError, ValueError, AssertionError, LxmlError) as error:
        raise TemplateError("html", 1, 1, _NOTHING_DERIVED) from error
    order = [int(number) for number in re.findall(f"{opening}[so]([0-9]+){closing}", text)]
    if order != sorted(order):
        raise TemplateError("html", 1, 1, _NOTHING_DERIVED)
    text = re.sub(f"(?m)^[ \t]*({opening}s[0-9]+{closing})[ \t]*\n", r"\1", text)  # an if alone on its line leaves none
    text = re.sub(f"{opening}[so]([0-9]+){closing}", lambda found: tags[int(found[1])], text)
    text = "\n".join(line.rstrip() for line in text.strip().split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def _inscriptis_config() -> "ParserConfig":
    """Tables row by row: emails use them for layout, and an `if` between two rows must stay between them."""
    from inscriptis.css_profiles import STRICT_CSS_PROFILE
    from inscriptis.html_properties import Display
    from inscriptis.model.config import ParserConfig
    from inscriptis.model.html_element import HtmlElement
    from inscriptis.model.tag import CustomHtmlTagHandlerMapping

    def nothing(*_: object) -> None:
        return

    def space(state: Any) -> None:
        state.tags[-1].write(" ")

    block = HtmlElement(display=Display.block)
    return ParserConfig(
        css=STRICT_CSS_PROFILE | {"table": block, "tr": block},
        display_links=True,
        display_images=True,
        custom_html_tag_handler_mapping=CustomHtmlTagHandlerMapping(
            start_tag_mapping={"table": nothing},
            end_tag_mapping={"table": nothing, "td": space, "th": space},
        ),
    )


def _unused_characters(html: str) -> tuple[str, str]:
    """Two private-use characters that the HTML does not hold; they mark where tags were."""
    first, second, *_ = (character for character in map(chr, range(0xE000, 0xF8FF)) if character not in html)
    return first, second
