"""The HTML5 parser, held to a budget of time: it takes the square of the depth of nested tags and of the attributes of
one tag, which a hostile template can have by the hundred thousand."""

import time
from typing import NoReturn

from selectolax.lexbor import LexborHTMLParser

from shared.templates.errors import TemplateError
from shared.templates.limits import MAX_READING_SECONDS

_FIRST_CHARACTERS = 50_000
_ENDS_TAG = "'>\">"  # the attributes of a tag are compared with each other where it ends


class HtmlParser:
    """Parses the variants of one template. Raises TemplateError once they and what is done with them take too long."""

    def __init__(self, seconds: float = MAX_READING_SECONDS) -> None:
        self._until = time.thread_time() + seconds

    def parse(self, html: str) -> LexborHTMLParser:
        """The document. Of a long one the beginning is tried first, which shows whether time grows with the square."""
        length = _FIRST_CHARACTERS
        while length < len(html):
            began = time.thread_time()
            LexborHTMLParser(html[:length] + _ENDS_TAG)
            now = time.thread_time()
            if now + 4 * (now - began) > self._until:
                self._refuse()
            length *= 2
        if time.thread_time() > self._until:
            self._refuse()
        return LexborHTMLParser(html)

    def _refuse(self) -> NoReturn:
        raise TemplateError(
            "html", 1, 1, "takes too long to read: too many tags inside each other, attributes in one tag, or branches"
        )
