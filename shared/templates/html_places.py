"""Where in the HTML a value stands, because escaping alone does not make every place safe.

In text and in quoted attributes an escaped value is harmless. At the start of a link it could bring `javascript:`, so
it must begin with a known scheme. In a tag, an unquoted attribute, an event handler, a script or a style sheet no
escaping helps, so it is refused.

An HTML5 parser says where a value stands. Each value is replaced by a marker that holds a space and a slash: a marker
that comes out of the parser in one piece stood in text, in a comment or in a quoted attribute. A template with ifs is
parsed in as many combinations of branches as show each branch once, and every branch of an if must end where the others
end, so that what follows means the same after all of them. Everything is read as browsers do and again as Outlook does,
which reads the contents of conditional comments.

Content that an older release has accepted is read *leniently*: what is only unclear is noted instead of refused, and
values there are escaped as that release did. What no escaping makes safe is refused all the same.
"""

import html as entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from selectolax.lexbor import LexborHTMLParser, LexborNode

from shared.templates.errors import TemplateError
from shared.templates.html_parser import HtmlParser
from shared.templates.pieces import Branch, Node, Nodes, Output, walk
from shared.templates.syntax import unused_characters
from shared.templates.variants import BEGIN, END, LAST, OUTPUT, Marker, Variant, variants

Kind: TypeAlias = Literal["text", "attribute", "comment", "raw", "tag", "unquoted", "nowhere"]

_LINKS = frozenset(
    {
        *("href", "src", "action", "formaction", "background", "poster", "cite", "longdesc", "data", "xlink:href"),
        *("srcset", "lowsrc", "dynsrc", "ping", "codebase", "classid", "usemap", "icon", "manifest"),
    }
)
_RAW = frozenset({"script", "style"})
_SPACES = frozenset(" \t\n\f\r")
_ENDS_NAME = _SPACES | {"/", ">"}
_BEFORE_NAME = _SPACES | {"/", "'", '"'}

# Outlook skips what `[if !mso]` guards; it is taken to read what any other condition guards.
_OUTLOOK_SKIPS = re.compile(
    r"<!(?:--)?\[if\b[^\]<>]{0,100}!\s*mso\b[^\]<>]{0,100}\]>.*?<!(?:--<!)?\[endif\](?:--)?>", re.DOTALL | re.IGNORECASE
)
_ENDIF = re.compile(r"<!\[endif\](?:--)?>", re.IGNORECASE)
_OUTLOOK_READS = re.compile(
    r"<!(?:--)?\[if\b[^\]<>]{0,200}\]>(?:\s*<!-- ?-?-?>|-->)?|<!(?:--\s*<!)?\[endif\](?:--)?>", re.IGNORECASE
)

# Fixed text whose meaning depends on what follows, such as `<` before `b`; and what may end a comment after a dash.
_BEGUN = re.compile(r"<(?!!--)(?:[/!?][^\s<>]*|[A-Za-z][^\s<>]*)?\Z")
_ENDS_COMMENT = re.compile(r"-?!?>")
_INVISIBLE = "".join(map(chr, range(33)))
_PLAIN = re.compile(r"[\w#.%-]*")
_PLAIN_TO_SPACE = re.compile(r"[\w#.%-]*[\s>]")

# What stands before a value that browsers drop.
_IN_CDATA = re.compile(r"<!\[CDATA\[[^\s<>]*\Z")
_IN_TAG = re.compile(r"<[^<>]*\Z")
_IN_QUOTES = re.compile(r"""<[a-z][^<>]*\s(?!on|srcdoc)[a-z][\w:.-]*\s*=\s*(?:"[^"<>]*|'[^'<>]*)\Z""", re.IGNORECASE)
_RAW_BEGINS = {name: re.compile(rf"<{name}\b", re.IGNORECASE) for name in ("script", "style")}
_BEGINS_LINK = re.compile(rf"""(?:{"|".join(sorted(_LINKS))})\s*=\s*["']\s*\Z""", re.IGNORECASE)

_UNFINISHED = {
    "attribute": "a quoted attribute",
    "comment": "a comment",
    "nowhere": "a tag",
    "tag": "a tag",
    "unquoted": "a tag",
}


class Place(NamedTuple):
    """`name` is that of the attribute, or the tag that makes text raw (script, style) or plain (title, textarea);
    `is_start`: nothing visible need stand before it in its attribute."""

    kind: Kind
    name: str = ""
    is_start: bool = False


_NOWHERE = Place("nowhere")
_JOINED = Place("tag", "joined to a name")
Found: TypeAlias = dict[tuple[int, str], Place]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Markers hold two characters that the HTML does not: `open` number kind space slash `close`."""

    open: str
    close: str
    pattern: re.Pattern[str]

    @classmethod
    def unused(cls, nodes: Nodes) -> "_Mark":
        first, last = characters_for_marks(nodes)
        return cls(first, last, re.compile(f"{first}([0-9]+)([{OUTPUT}{BEGIN}{END}{LAST}])( /{last})?"))

    def __call__(self, marker: Marker) -> str:
        return f"{self.open}{marker.number}{marker.kind} /{self.close}"


def find_places(nodes: Nodes, parser: HtmlParser, doubts: list[TemplateError] | None = None) -> dict[Node, Place]:
    """Where a browser finds each value and the beginning of each if. Marks the outputs that start a link.

    Raises TemplateError where a value could break out of its place. With `doubts` it reads leniently, and adds to them
    what it would else refuse."""
    return _Places(nodes, parser, doubts).find()


def characters_for_marks(nodes: Nodes) -> tuple[str, str]:
    """Two characters that the HTML does not hold, not even as entities. Raises TemplateError."""
    source = "".join(node for node in walk(nodes) if isinstance(node, str))
    return unused_characters(set(source) | set(entities.unescape(source)))


class _Places:
    def __init__(self, nodes: Nodes, parser: HtmlParser, doubts: list[TemplateError] | None) -> None:
        self._nodes = nodes
        self._doubts = doubts
        self._parser = parser
        self._mark = _Mark.unused(nodes)
        self._by_number = [node for node in walk(nodes) if not isinstance(node, str)]
        self._places: dict[Node, Place] = {}
        self._ends: dict[tuple[Branch, bool], tuple[str, str]] = {}

    def find(self) -> dict[Node, Place]:
        for variant in variants(self._nodes):
            source = self._marked(variant)
            for_outlook = _as_outlook(source)
            self._judge(variant, self._look(source), self._look(for_outlook) if for_outlook != source else {})
        return self._places

    def _marked(self, variant: Variant) -> str:
        """The HTML of one combination of branches. In a tag, the ends of an if stand apart from names and quotes where
        the HTML parts them, and nowhere else."""
        pieces, end = [], 0
        spaced = False
        for offset, marker in variant.markers:
            if offset > end:
                pieces.append(variant.text[end:offset])
                end, spaced = offset, False
            mark = self._mark(marker)
            if marker.kind != OUTPUT:
                before, after = variant.text[max(0, offset - 1) : offset], variant.text[offset : offset + 1]
                if not spaced and before not in _SPACES and after in _ENDS_NAME:
                    mark, spaced = f" {mark} ", True
                elif spaced or before in _BEFORE_NAME:
                    mark, spaced = f"{mark} ", True
            pieces.append(mark)
        return "".join(pieces) + variant.text[end:]

    def _look(self, source: str) -> Found:
        found: Found = {}
        for node in _all_nodes(self._parser.parse(source)):
            if node.is_text_node:
                self._note(found, node.text_content or "", _text_place(node))
            elif node.is_comment_node:
                self._note(found, node.comment_content or "", Place("comment"))
            else:
                self._note(found, node.tag or "", _JOINED)
                for name, value in node.attributes.items():
                    is_apart = name.removeprefix(self._mark.open).isalnum()
                    self._note(found, name, Place("tag") if is_apart else _JOINED)
                    self._note_value(found, name, value or "")
        return found

    def _note(self, found: Found, text: str, place: Place) -> None:
        if self._mark.open in text:
            for mark in self._mark.pattern.finditer(text):
                found[int(mark[1]), mark[2]] = place

    def _note_value(self, found: Found, name: str, value: str) -> None:
        """Notes the markers in the value of an attribute, and which of them may be its start."""
        if self._mark.open not in value:
            return
        is_start, end = True, 0
        before_ifs: list[bool] = []
        for mark in self._mark.pattern.finditer(value):
            is_start = is_start and not value[end : mark.start()].strip(_INVISIBLE)
            end = mark.end()
            number, kind = int(mark[1]), mark[2]
            found[number, kind] = Place("attribute", name, is_start) if mark[3] else Place("unquoted", name)
            if kind == OUTPUT:
                is_start = False
            elif kind == BEGIN:
                before_ifs.append(is_start)
            elif kind == END and before_ifs:
                is_start = before_ifs.pop() and (is_start or _may_be_blank((self._by_number[number],)))

    def _judge(self, variant: Variant, browser: Found, outlook: Found) -> None:
        for offset, marker in variant.markers:
            place = browser.get((marker.number, marker.kind), _NOWHERE)
            other = outlook.get((marker.number, marker.kind))
            if isinstance(marker.node, Output):
                self._places[marker.node] = place
                for one in (place, other) if other else (place,):
                    self._judge_output(marker.node, one, variant, offset)
            elif isinstance(marker.node, Branch):
                self._judge_end(marker, marker.node, place, other, variant, offset)
            elif place.kind != "text" or place.name:
                what = _UNFINISHED.get(place.kind, f"<{place.name}>")
                self._doubt(TemplateError("html", 1, 1, f"the HTML ends inside {what}; close it"))

    def _judge_output(self, output: Output, place: Place, variant: Variant, offset: int) -> None:
        reason = _refusal(place) or _straddles(place, variant.text, offset)
        if reason:
            error = TemplateError("html", output.position, output.position.column, reason)
            if not _is_only_unclear(place, variant.text[:offset]):
                raise error
            self._doubt(error)
            output.starts_link = output.starts_link or _BEGINS_LINK.search(variant.text[:offset]) is not None
        if place.kind == "attribute" and place.name in _LINKS and place.is_start:
            output.starts_link = True

    def _doubt(self, error: TemplateError) -> None:
        if self._doubts is None:
            raise error
        self._doubts.append(error)

    def _judge_end(
        self, marker: Marker, branch: Branch, place: Place, other: Place | None, variant: Variant, offset: int
    ) -> None:
        if marker.kind == BEGIN:
            self._places.setdefault(branch, place)
        begun = self._places[branch]
        if begun.kind == "unquoted" and _is_plain(branch, variant.text[offset:]):
            return
        position = branch.position
        if place.kind == "unquoted":
            message = "put quotes around the attribute in which this if stands"
            self._doubt(TemplateError("html", position, position.column, message))
        tag_joined = place.kind == "tag" and variant.text[offset:].lstrip().startswith("=")
        if place in (_NOWHERE, _JOINED) or tag_joined or _straddles(place, variant.text, offset):
            self._doubt(
                TemplateError("html", position, position.column, "an if cannot stand inside a tag's name or its end")
            )
        if marker.kind != END:
            return
        for is_outlook, one in ((False, place), (True, other)):
            end = (one.kind, one.name) if one else ("", "")
            if one and self._ends.setdefault((branch, is_outlook), end) != end:
                message = "the branches of this if end at different places of the HTML"
                advice = "close tags and quotes where they open"
                self._doubt(TemplateError("html", position, position.column, f"{message}; {advice}"))


def _all_nodes(parser: LexborHTMLParser) -> Iterator[LexborNode]:
    """Every node of a document, those inside <template> included."""
    root = parser.root
    trees = [root.parent or root] if root else []
    while trees:
        tree = trees.pop()
        trees += tree.template_fragments()
        yield from tree.traverse(include_text=True)


def _text_place(node: LexborNode) -> Place:
    tag = (node.parent.tag if node.parent else "") or ""
    if tag in _RAW:
        return Place("raw", tag)
    return Place("text", tag if tag in ("title", "textarea") else "")


def _as_outlook(source: str) -> str:
    last = max((found.end() for found in _ENDIF.finditer(source)), default=0)  # nothing after it can be skipped
    return _OUTLOOK_READS.sub(" ", _OUTLOOK_SKIPS.sub(" ", source[:last]) + source[last:])


def _refusal(place: Place) -> str:
    match place.kind:
        case "tag":
            return "a field cannot make tags or attributes; use an if around fixed HTML"
        case "unquoted":
            return f'put the value in quotes: {place.name}="{{{{ ... }}}}"'
        case "raw":
            return f"a field cannot stand inside <{place.name}>"
        case "nowhere":
            return "a field cannot stand here: browsers drop what is here, such as a second attribute of the same name"
        case "attribute" if place.name.startswith("on"):
            return f"a field cannot stand in the script of {place.name}"
        case "attribute" if place.name == "srcdoc":
            return "a field cannot stand in srcdoc, which browsers read as HTML"
    return ""


def _straddles(place: Place, text: str, offset: int) -> str:
    """What is wrong where the fixed text around a marker means another thing once a value stands between."""
    if place.kind == "comment" and _ENDS_COMMENT.match(text, offset):
        return "put a space between this and the end of the comment"
    if place.kind in ("text", "raw", "comment") and _BEGUN.search(text, max(0, offset - 200), offset):
        return "put a space behind the < before this, or write it as &lt;"
    return ""


def _is_only_unclear(place: Place, before: str) -> bool:
    """Whether an escaped value is harmless in a refused place: a comment, CDATA, or what browsers drop, in quotes."""
    if (place.kind == "comment" and not before.endswith("</")) or (place.kind == "text" and _IN_CDATA.search(before)):
        return True
    return (
        place.kind == "nowhere"
        and not _is_in_raw(before)
        and (_IN_TAG.search(before) is None or _IN_QUOTES.search(before) is not None)
    )


def _is_in_raw(before: str) -> bool:
    """Whether a script or a style has begun and not ended."""
    lower = before.lower() if before.isascii() else re.sub("[A-Z]+", lambda found: found[0].lower(), before)
    return any(begins.search(before, lower.rfind(f"</{name}") + 1) for name, begins in _RAW_BEGINS.items())


def _is_plain(branch: Branch, rest: str) -> bool:
    """Whether an if in an unquoted attribute only chooses between words."""
    words = ["".join(node if isinstance(node, str) else '"' for node in body) for body in branch.alternatives]
    return all(_PLAIN.fullmatch(word) for word in words) and _PLAIN_TO_SPACE.match(rest) is not None


def _may_be_blank(nodes: Nodes) -> bool:
    return all(
        any(_may_be_blank(body) for body in node.alternatives)
        if isinstance(node, Branch)
        else isinstance(node, str) and not node.strip()
        for node in nodes
    )
