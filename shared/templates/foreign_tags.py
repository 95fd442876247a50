"""Merge tags of other systems, which would go out as they stand: recognised, and answered with ours."""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

MAX_FOUND = 20
"""Tags that are reported for one part."""

# What other systems call our fields, without case and separators.
_OURS = {
    "fname": "first_name",
    "lname": "last_name",
    "firstname": "first_name",
    "lastname": "last_name",
    "mail": "email",
    "emailaddress": "email",
    "recipient": "email",
}
_NAME = r"\s{{0,5}}(?P<{}>[\w .:@|>/-]{{1,60}}?)\s{{0,5}}"
_FORMS = {
    "encoded": r"%7B%7B(?P<encoded>.{1,80}?)%7D%7D",  # an editor took the field for part of an address
    "star": r"\*\|" + _NAME.format("star") + r"\|\*",  # Mailchimp
    "brackets": r"\[\[" + _NAME.format("brackets") + r"\]\]",  # Mailjet, Sendy
    # phpList; but not a link in the derived text's form
    "bracket": r"\[(?P<bracket>(?:first_?|last_?|[fl])?name|email|unsubscribe\w*|webversion)\b[^\]\n]{0,40}\](?!\()",
    "percents": r"%%" + _NAME.format("percents") + r"%%",  # Salesforce
    # Mailgun, ActiveCampaign; but not bytes of an encoded address
    "percent": r"(?<!\d)%(?P<percent>[A-Za-z]\w{0,40}(?:\.\w{1,40}){1,5}|(?![0-9A-Fa-f]{2})[A-Za-z]\w{2,40})%",
    "dollar": r"\{\$" + _NAME.format("dollar") + r"\}|\$\{" + _NAME.format("dollar2") + r"\}",  # MailerLite, Adobe
    "hash": r"#\{" + _NAME.format("hash") + r"\}|##(?P<hash2>\w{2,40})##",  # Pug, Constant Contact
    "bang": r"\{!\$?" + _NAME.format("bang") + r"\}",  # Salesforce
    "erb": r"(?:<|&lt;)%=?-?" + _NAME.format("erb") + r"-?%(?:>|&gt;)",
    "template_toolkit": r"\[%-?" + _NAME.format("toolkit") + r"-?%\]",
    "at": r"@@(?P<at>[A-Za-z]\w{1,40})@@",
    "guillemets": r"«(?P<guillemets>[A-Za-z]+(?:_[A-Za-z]+)+)»",  # Word; a word without _ may be a quotation
    "angles": r"(?:<<|&lt;&lt;)" + _NAME.format("angles") + r"(?:>>|&gt;&gt;)",  # Word
    "brace": r"(?<![{$#!%])\{(?P<brace>[A-Za-z_]\w{0,40})\}(?!\})",
}
_CLOSED_BY = {"{{": "}}", "{%": "%}", "{#": "#}"}
"""Our own tags."""
_TAGS = re.compile(
    r"(?=[%*\[{$#&<@«])(?:"  # to look first for what they begin with takes a fifth of the time
    + "|".join((r"(?P<raw>\{%-?\s*raw\s*-?%\})|(?P<ours>\{[{%#])", *_FORMS.values()))
    + ")",
    re.DOTALL | re.IGNORECASE,
)
_END_RAW = re.compile(r"\{%-?\s*endraw\s*-?%\}", re.IGNORECASE)


class ForeignTag(NamedTuple):
    """A merge tag of another system, and the field of ours that it probably means."""

    offset: int
    tag: str
    ours: str


def foreign_tags(text: str) -> Iterator[ForeignTag]:
    """The first of them in a template. Our own tags are passed over."""
    found = 0
    for match in _matches(text):
        name = next((group for group in match.groups() if group), None)
        if name:
            yield ForeignTag(match.start(), match.group(), our_name(unquote_plus(name)))
            found += 1
            if found == MAX_FOUND:
                return


def _matches(text: str) -> Iterator[re.Match[str]]:
    """The merge tags of other systems. An opening that nothing closes costs one look to the end of the text, however
    often it comes."""
    unclosed: set[str] = set()
    position = 0
    while match := _TAGS.search(text, position):
        position = match.end()
        if match["raw"] and "raw" not in unclosed:
            if closed := _END_RAW.search(text, position):
                position = closed.end()
            else:
                unclosed.add("raw")
        elif opened := match["ours"]:
            stop = -1 if opened in unclosed else text.find(_CLOSED_BY[opened], position)
            if stop < 0:
                unclosed.add(opened)
            position = match.start() + 1 if stop < 0 else stop + 2
        elif not match["raw"]:
            yield match


def our_name(name: str) -> str:
    """The field that a name of another system probably means: `contact.FIRSTNAME` is `first_name`."""
    if "unsub" in name.lower():
        return "unsubscribe_url"
    words = re.findall(r"\w+", re.split(r"\||,", name)[0]) or ["name"]
    last = words[-1] if re.search(r"[.:>/]", name) else "_".join(words)
    plain = last.replace("_", "").lower()
    if plain in _OURS:
        return _OURS[plain]
    ours = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last).lower()
    return ours if ours.isidentifier() else f"field_{ours}"


def hint(tag: str) -> str:
    """What to write instead of a tag that is not ours, given the text from its opening brace on; empty if unknown."""
    tag = tag.split("\n")[0]
    if re.match(r"\{\{\s*[#/^]", tag):
        return "{{# }} is a tag of another system; write {% if name %}...{% endif %}"
    if found := re.match(r"\{%\s*(?!end|else)([^\W\d]\w*)\s*%\}", tag):
        return f"unknown tag {found[1]!r}; a field is written {{{{ {our_name(found[1])} }}}}"
    if re.search(r"\|\s*d(?:efault)?\s*:", tag):
        return "a default stands in brackets: {{ name|default('friend') }}"
    if re.match(r"\{\{\s*&\w+;", tag):
        return ""
    if found := re.match(r"\{\{\{?\s*[.$@!>&{*]*\s*([\w .:$>/-]*)", tag):
        name = found[1].strip()
        is_foreign = re.match(r"\{\{\{|\{\{\s*[.$@!>&*]", tag) or re.match(r"\w+\s*:\s*\w", name)
        if name and is_foreign:
            return f"this is a tag of another system; a field is written {{{{ {our_name(name)} }}}}"
        if re.fullmatch(r"[^\W\d]\w*(?: [^\W\d]\w*){1,3}", name) and re.match(r"[^}|]*\}\}", tag):
            return f"a field's name has no spaces; write {{{{ {name.replace(' ', '_')} }}}}"
    return ""
