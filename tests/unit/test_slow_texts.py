"""No text that a stranger may send takes more than its size: each is as long as allowed, and read in a few seconds."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from services.api.usecases.preview import MAX_SHOWN_CHARACTERS, with_images
from shared.content import CampaignContent, InlineImageError, check_inline_images
from shared.deliverability.spf_record import SpfSyntaxError, parse
from shared.messages.message import Attachment as InlineImage
from shared.templates import TemplateError, compile_content
from shared.templates.foreign_tags import foreign_tags
from shared.templates.limits import MAX_BODY_CHARACTERS
from shared.templates.syntax import notes

CPU_SECONDS = 10.0
"""Of this thread: usual is a tenth of a second, and what these texts took before they were bounded was minutes."""


def filled(begin: str, part: str, end: str = "") -> str:
    """A text of the longest length that a part may have."""
    return begin + part * ((MAX_BODY_CHARACTERS - len(begin) - len(end)) // len(part)) + end


TEXTS: dict[str, tuple[str, str, str]] = {
    "spaces behind src=": ("<p>src=", " ", ""),
    "spaces in pre": ("<pre>", " ", "x</pre>"),
    "head": ("", "<head ", "{{ name|default('x') }}"),
    "doctype": ("", "<!doctype ", ""),
    "scripts": ("", "<script ", "{{ name|default('x') }}"),
    "styles that end": ("<a b='' b=", "'<style '", "</style>"),
    "Outlook": ("", "<!--[if !mso]>", "<![endif]-->{{ name|default('x') }}"),
    "CDATA": ("", "<![CDATA[", "{{ name|default('x') }}"),
    "notes": ("", "{#", ""),
    "tags of others": ("", "*|a", ""),
    "attributes": ("<a", ' a="', "{{ name|default('x') }}"),
}


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


@pytest.mark.parametrize("name", TEXTS)
def test_html_is_read_in_time(name: str) -> None:
    html = filled(*TEXTS[name])

    def read() -> None:
        with suppress(TemplateError, InlineImageError):
            compile_content("Hello", html, None)
            check_inline_images(CampaignContent(subject="Hello", html=html))

    assert cpu_seconds(read) < CPU_SECONDS


@pytest.mark.parametrize(
    "part", ["{{ '{% raw' }}", "{{ '}}{% raw %}' }}", "{{ '}}{%' }}", "{#", "{{", "{% raw ", "%7B%7B"]
)
def test_tags_that_nothing_closes_cost_one_look(part: str) -> None:
    text = filled("", part)
    assert cpu_seconds(lambda: list(notes(text))) < CPU_SECONDS
    assert cpu_seconds(lambda: list(foreign_tags(text))) < CPU_SECONDS


def test_tags_of_others_are_found_beside_ours() -> None:
    text = (
        "{% raw %}*|A|*{% endraw %}{# *|B|* #}{{ '*|C|*' }}{% if x %}*|FNAME|*{% endif %}{{ '}}{% raw %}' }}*|LNAME|*{{"
    )
    assert [one.tag for one in foreign_tags(text)] == ["*|FNAME|*", "*|LNAME|*"]
    assert list(notes("{% raw %}{# a #}{% endraw %}b{# c #}{{ '{% raw' }}{# d #}{#")) == [
        (29, "{# c #}"),
        (50, "{# d #}"),
    ]


def test_an_image_shown_many_times_stays_within_bounds() -> None:
    image = InlineImage("a.gif", "image/gif", b"ABC" * 1_000_000, "a")
    html = '<img src="cid:a">' * 50_000
    shown = with_images(html, {"a": image})
    assert shown.count("data:") == 4
    assert len(shown) <= MAX_SHOWN_CHARACTERS + len(html)


@pytest.mark.parametrize(
    "record", ["a:." + "a" * 4000 + "!", "a:" + "a." * 2000 + "!", "ip4:" + "/1" * 2000, "a:%{d" + "9" * 4000 + "}.a"]
)
def test_a_record_of_spf_is_read_in_time(record: str) -> None:
    def read() -> None:
        with suppress(SpfSyntaxError):
            parse(f"v=spf1 {record} -all")

    assert cpu_seconds(read) < CPU_SECONDS
