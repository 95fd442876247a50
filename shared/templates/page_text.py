"""A page as plain text: paragraphs apart, tables row by row, links as [text](target), images as [alternative text]."""

import re
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from selectolax.lexbor import LexborHTMLParser, LexborNode

_DROPPED = frozenset(
    {"style", "title", "template", "iframe", "noembed", "noframes", "canvas", "svg", "math", "audio", "video", "object"}
)
_BREAKS = {
    **dict.fromkeys(("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "blockquote", "pre", "hr"), 2),
    **dict.fromkeys(("div", "table", "tr", "li", "dt", "dd", "center", "section", "article", "header", "footer"), 1),
    **dict.fromkeys(("main", "nav", "aside", "address", "figure", "figcaption", "caption", "form", "fieldset"), 1),
}
_HIDDEN = re.compile(r"(?:^|[;\s])display\s*:\s*none", re.IGNORECASE)
_WHITESPACE = re.compile(r"[ \t\n\r\f]+")


@dataclass(frozen=True, slots=True)
class Marks:
    """Markers in a text: a code between two characters that occur nowhere else.

    Codes: `oN` a value; `iN.0`, `iN.1` ... where the branches of an if begin and `eN` where the last ends; `lN`, `mN`
    and `nN` before, between and after the label and the target of a link."""

    open: str
    close: str

    def write(self, code: str) -> str:
        return f"{self.open}{code}{self.close}"

    def split(self, text: str) -> list[str]:
        """Texts and codes in turn, beginning and ending with a text."""
        return re.split(f"{self.open}([^{self.close}]*){self.close}", text)


def page_text(document: LexborHTMLParser, marks: Marks) -> str | None:
    """The text of a page, with the markers that stand in it. None where an if decides whether something is displayed.

    Markers stand in attributes, or alone in a <script>."""
    writer = _Writer(marks)
    root = document.root
    top = root.parent if root else None
    node = top
    while top and node:
        child = node.first_child if writer.enter(node) else None
        while not child and node:
            writer.leave(node)
            if node.mem_id == top.mem_id:
                return writer.text()
            child = node.next
            node = node.parent
        if writer.is_undecided:
            return None
        node = child
    return writer.text()


State = Literal["line", "space", "word"]
"""What was written last: nothing on this line, a space, or something visible."""


@dataclass(slots=True)
class _Writer:
    marks: Marks
    is_undecided: bool = False
    _out: list[str] = field(default_factory=list)
    _state: State = "line"
    _breaks: int = 0  # line ends to write before the next word
    _space: bool = False  # a space to write before the next word
    _preformatted: int = 0
    _lists: list["count[int] | None"] = field(default_factory=list)
    _links: list[int] = field(default_factory=list)  # where in `_out` the labels of open links begin
    _ifs: list[list[State]] = field(default_factory=list)  # per open if: the states before it and at each branch's end
    _numbers: "count[int]" = field(default_factory=count)

    def text(self) -> str:
        text = re.sub(r"(?<![ \t])[ \t]+(?=\n)", "", "".join(self._out).strip(" \t\n"))
        return re.sub(r"\n{3,}", "\n\n", text) + "\n"

    def enter(self, node: LexborNode) -> bool:
        """Writes what stands before the content of a node; False where the content is not displayed."""
        if node.is_text_node:
            self._write(node.text_content or "")
            return False
        tag = node.tag or ""
        if tag == "script":
            code = node.text(deep=True)
            if self.marks.open in code:
                self._mark(code)
            return False
        if node.is_comment_node or tag in _DROPPED or self._is_hidden(node):
            return False
        self._break_around(tag)
        match tag:
            case "br":
                self._breaks += 1
            case "img":
                self._image(node.attributes.get("alt") or "")
            case "a" if _target(node):
                self._flush()
                self._links.append(len(self._out))
                self._state = "line"
            case "td" | "th":
                self._space = True
            case "ul" | "ol":
                self._lists.append(count(1) if tag == "ol" else None)
            case "li":
                numbers = self._lists[-1] if self._lists else None
                self._word(f"{next(numbers)}." if numbers else "*")
                self._space = True
            case "pre":
                self._preformatted += 1
        return True

    def leave(self, node: LexborNode) -> None:
        """Writes what stands behind the content of a node."""
        tag = node.tag or ""
        if node.is_text_node or tag in _DROPPED or tag == "script" or self._is_hidden(node):
            return
        match tag:
            case "a" if _target(node):
                self._end_link(_target(node))
            case "td" | "th":
                self._space = True
            case "ul" | "ol":
                self._lists.pop()
            case "pre":
                self._preformatted -= 1
        self._break_around(tag)

    def _is_hidden(self, node: LexborNode) -> bool:
        attributes = node.attributes
        style = attributes.get("style") or ""
        if self.marks.open in style and "display" in style.lower():
            self.is_undecided = True
        return "hidden" in attributes or _HIDDEN.search(style) is not None

    def _write(self, text: str) -> None:
        if self._preformatted:
            if text:
                self._word(text)
                self._state = "line" if text.endswith("\n") else "word"
            return
        words = _WHITESPACE.sub(" ", text)
        self._space = self._space or words.startswith(" ")
        if words.strip(" "):
            self._word(words.strip(" "))
            self._space = words.endswith(" ")

    def _word(self, word: str) -> None:
        self._flush()
        self._out.append(word)
        self._state = "word"

    def _image(self, alternative: str) -> None:
        words = _WHITESPACE.sub(" ", alternative).strip(" ")
        if words:
            self._word(f"[{words}]")

    def _break_around(self, tag: str) -> None:
        lines = _BREAKS.get(tag, 0)
        inside_list = self._lists and tag in ("ul", "ol")
        self._breaks = max(self._breaks, 1 if inside_list else lines)

    def _flush(self) -> None:
        """Writes the line ends or the space that are due."""
        if self._breaks and self._state != "line":
            self._out.append("\n" * min(self._breaks, 2))
            self._state = "line"
        elif self._space and self._state == "word":
            self._out.append(" ")
            self._state = "space"
        self._breaks, self._space = 0, False

    def _end_link(self, target: str) -> None:
        start = self._links.pop()
        label = "".join(self._out[start:])
        if label in ("", target):
            del self._out[start:]
            self._word(target)
            return
        number = next(self._numbers)
        self._out.insert(start, self.marks.write(f"l{number}"))
        self._out += [self.marks.write(f"m{number}"), target, self.marks.write(f"n{number}")]
        self._state = "word"

    def _mark(self, mark: str) -> None:
        code = mark.strip(self.marks.open + self.marks.close)
        if code[0] == "o":
            self._word(mark)
            return
        self._flush()
        self._out.append(mark)
        if code.endswith(".0"):
            self._ifs.append([self._state])
        elif self._ifs:
            self._ifs[-1].append(self._state)
            if code[0] == "i":
                self._state = self._ifs[-1][0]
            else:
                ends = set(self._ifs.pop()[1:])
                self._state = ends.pop() if len(ends) == 1 else "word"


def _target(node: LexborNode) -> str:
    target = _WHITESPACE.sub("", node.attributes.get("href") or "")
    return "" if target.startswith("#") else target
