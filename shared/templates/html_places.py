"""Where in the HTML a merge value stands, because escaping alone does not make every place safe.

In text and in quoted attributes an escaped value is harmless. At the start of a link it could bring `javascript:`, so
it must begin with a known scheme. In a tag, an unquoted attribute, an event handler, a script or a style sheet no
escaping helps, so it is refused. The idea is Go's html/template; the rules are fewer because values are plain text.
"""

import re
from dataclasses import dataclass, replace

_LINKS = frozenset(
    {"href", "src", "action", "formaction", "background", "poster", "cite", "longdesc", "data", "xlink:href", "srcset"}
)
_TAG_OPENS = re.compile(r"<(/?)([A-Za-z][^\s/>]*|\Z)|<!--(?!\[if\b)")
_ATTRIBUTE = re.compile(r"([^\s=>/\"']+)|(=)|([\"'])|(>)|[\s/]+")
_UNQUOTED_END = re.compile(r"[\s>]")
_COMMENT_ENDS = re.compile("-->")
_RAW_ENDS = {tag: re.compile(f"</{tag}", re.IGNORECASE) for tag in ("script", "style")}


@dataclass(frozen=True, slots=True)
class Place:
    """`kind`: text, tag, value (quoted, by `quote`), unquoted, comment, raw (script or style)."""

    kind: str = "text"
    tag: str = ""
    attribute: str = ""
    equals: bool = False
    quote: str = ""
    at_start: bool = False


class HtmlPlaces:
    """Follows the HTML through fixed text and merge values in the order in which they stand."""

    def __init__(self) -> None:
        self.place = Place()

    def text(self, text: str) -> None:
        """Passes fixed text."""
        offset = 0
        while offset < len(text):
            offset = self._step(text, offset)

    def refusal(self) -> str:
        """Why no merge value may stand here, or the empty string."""
        place = self.place
        if place.kind in ("tag", "unquoted"):
            if place.equals:
                return f'put the value in quotes: {place.attribute}="{{{{ ... }}}}"'
            return "a merge value cannot make tags or attributes; use an if around fixed HTML"
        if place.kind == "raw":
            return f"a merge value cannot stand inside <{place.tag}>"
        if place.kind == "value" and place.attribute.startswith("on"):
            return f"a merge value cannot stand in the script of {place.attribute}"
        return ""

    def value(self) -> bool:
        """Passes a merge value; says whether it starts a link."""
        starts_link = self.place.kind == "value" and self.place.at_start and self.place.attribute in _LINKS
        self.place = replace(self.place, at_start=False)
        return starts_link

    def join(self, ends: list[Place]) -> bool:
        """Goes on after branches that ended at these places; False where they disagree."""
        joined = replace(ends[0], at_start=any(end.at_start for end in ends))
        self.place = joined
        return all(replace(end, at_start=joined.at_start) == joined for end in ends)

    def unfinished(self) -> str:
        """What the HTML must not end in."""
        kinds = {"tag": "a tag", "value": "a quoted attribute", "unquoted": "a tag", "comment": "a comment"}
        return kinds.get(self.place.kind, f"<{self.place.tag}>" if self.place.kind == "raw" else "")

    def _step(self, text: str, offset: int) -> int:
        match self.place.kind:
            case "tag":
                return self._in_tag(text, offset)
            case "value":
                return self._in_value(text, offset)
            case "unquoted":
                return self._in_unquoted(text, offset)
            case "comment":
                return self._skip_past(_COMMENT_ENDS, text, offset, Place())
            case "raw":
                return self._skip_past(_RAW_ENDS[self.place.tag], text, offset, Place("tag"))
        return self._in_text(text, offset)

    def _in_text(self, text: str, offset: int) -> int:
        found = _TAG_OPENS.search(text, offset)
        if not found:
            return len(text)
        if found.group().startswith("<!"):
            self.place = Place("comment")
        else:
            self.place = Place("tag", tag="" if found[1] else found[2].lower())
        return found.end()

    def _in_tag(self, text: str, offset: int) -> int:
        found = _ATTRIBUTE.match(text, offset)
        name, equals, quote, closes = found.groups() if found else (None, None, None, None)
        place = self.place
        if closes:
            self.place = Place("raw", tag=place.tag) if place.tag in _RAW_ENDS else Place()
        elif place.equals and quote:
            self.place = replace(place, kind="value", quote=quote, at_start=True)
        elif place.equals and name:
            self.place = replace(place, kind="unquoted")
        elif equals and place.attribute:
            self.place = replace(place, equals=True)
        elif name:
            self.place = replace(place, attribute=name.lower(), equals=False)
        return found.end() if found else offset + 1

    def _in_value(self, text: str, offset: int) -> int:
        end = text.find(self.place.quote, offset)
        if end >= 0:
            self.place = Place("tag", tag=self.place.tag)
            return end + 1
        if text[offset:].strip():
            self.place = replace(self.place, at_start=False)
        return len(text)

    def _in_unquoted(self, text: str, offset: int) -> int:
        end = _UNQUOTED_END.search(text, offset)
        if not end:
            return len(text)
        self.place = Place("tag", tag=self.place.tag)
        return end.start()

    def _skip_past(self, closing: re.Pattern[str], text: str, offset: int, then: Place) -> int:
        found = closing.search(text, offset)
        if not found:
            return len(text)
        self.place = then
        return found.end()
