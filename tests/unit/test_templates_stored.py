"""Content that an older release accepted: what is safe is sent with a warning, the rest stays refused."""

import pytest

from shared.templates import RenderError, TemplateError, compile_content

VALUES = {"name": "A\"'<b>&", "link": "javascript:alert(1)", "vip": "1"}
ESCAPED = "A&#34;&#39;&lt;b&gt;&amp;"


@pytest.mark.parametrize(
    ("html", "rendered"),
    [
        ('<td title="{{ name }}">x</td>', f'<td title="{ESCAPED}">x</td>'),
        ("<tr><td width='{{ name }}'>x", f"<tr><td width='{ESCAPED}'>x"),
        ('<p title="a" title="{{ name }}">x</p>', f'<p title="a" title="{ESCAPED}">x</p>'),
        ("<p><![CDATA[{{ name }}]]></p>", f"<p><![CDATA[{ESCAPED}]]></p>"),
        ("<svg><![CDATA[{{ name }}]]></svg>", f"<svg><![CDATA[{ESCAPED}]]></svg>"),
        ("<![CDATA[{% if vip %}A{% endif %}]]>", "<![CDATA[A]]>"),
    ],
)
def test_what_is_only_unclear_is_sent_as_it_was(html: str, rendered: str) -> None:
    with pytest.raises(TemplateError) as refused:
        compile_content("s", html, None)
    content = compile_content("s", html, None, is_stored=True)
    assert content.html
    assert content.html.render(VALUES) == rendered
    [warning, *_] = content.warnings
    assert warning.message == f"{refused.value.message} (new content like this is refused)"
    assert (warning.line, warning.column) == (refused.value.line, refused.value.column)


@pytest.mark.parametrize(
    "html",
    [
        "<p {{ name }}>",
        "<p title={{ name }}>",
        "<td {{ name }}>",
        "<td title={{ name }}>",
        "<td onclick='{{ name }}'>",
        "<td srcdoc='{{ name }}'>",
        "<td title='' onclick='{{ name }}'>",
        "<p onclick='{{ name }}'>",
        "<script>{{ name }}</script>",
        "<style>{{ name }}</style>",
        "<select><script>{{ name }}</script></select>",
        "<{{ name }}>",
        "<b{{ name }}>",
        "</{{ name }}>",
        "<!--[if !mso]><!--><script>{{ name }}</script><!--<![endif]-->",
        "<iframe srcdoc='{{ name }}'></iframe>",
    ],
)
def test_what_no_escaping_makes_safe_is_refused_though_it_is_stored(html: str) -> None:
    with pytest.raises(TemplateError):
        compile_content("s", html, None, is_stored=True)


@pytest.mark.parametrize("html", ["<td background='{{ link }}'>", "<a title='' href='x' href='{{ link }}'>x</a>"])
def test_a_link_that_browsers_drop_must_begin_as_one_all_the_same(html: str) -> None:
    content = compile_content("s", html, "t", is_stored=True)
    assert content.html
    with pytest.raises(RenderError, match="starts a link"):
        content.html.render(VALUES)
    assert "https://x.example" in content.html.render({"link": "https://x.example"})


def test_without_a_text_that_could_be_derived_there_is_none() -> None:
    html = "{% if vip %}<a href='https://x.example'>{% endif %}x{% if name %}</a>{% endif %}"
    content = compile_content("s", html, None, is_stored=True)
    assert content.text.is_empty
    assert "give the text yourself" in content.warnings[0].message


def test_content_in_order_is_the_same_stored_or_new() -> None:
    html = "<p>Hello {{ name }}</p>{% if vip %}<p>!</p>{% endif %}"
    new, stored = (compile_content("s", html, None, is_stored=is_stored) for is_stored in (False, True))
    assert new.html
    assert stored.html
    assert new.html.render(VALUES) == stored.html.render(VALUES)
    assert new.text.render(VALUES) == stored.text.render(VALUES)
    assert not stored.warnings
