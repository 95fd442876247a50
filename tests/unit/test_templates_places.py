"""Where values stand in HTML, as browsers and Outlook read it, judged by another HTML5 parser."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from justhtml import JustHTML

from shared.templates import RenderError, TemplateError, Value, compile_content

EVIL = "javascript:alert(1)"


def html_of(source: str, **values: Value) -> str:
    html = compile_content("s", source, "t").html
    assert html is not None
    return html.render(values)


@pytest.mark.parametrize(
    "source",
    [
        "<!--[if !mso]><!--><a href='{{ link }}'>L</a><!--<![endif]--><p>x</p>",
        "<!--[if !mso]><!-- --><a href='{{ link }}'>L</a><!--<![endif]-->",
        "<![if !mso]><a href='{{ link }}'>L</a><![endif]>",
        "<!--[if mso]><a href='{{ link }}'>L</a><![endif]-->",
        '<!--[if (gte mso 9)|(IE)]><v:rect href="{{ link }}"></v:rect><![endif]-->',
        "<!--[IF MSO]><a href='{{ link }}'>L</a><![ENDIF]-->",
        "<!--[if !IE]><a href='{{ link }}'>L</a><![endif]-->",
        "<!-- --!><a href='{{ link }}'>L</a>",
        "<!--><a href='{{ link }}'>L</a>",
        "<!---><a href='{{ link }}'>L</a>",
        "<!doctype html><?xml ?><a href='{{ link }}'>L</a>",
        "<title><a></title><a href='{{ link }}'>L</a>",
        "<svg><style><a href='{{ link }}'>L</a></style></svg>",
        "<template><a href='{{ link }}'>L</a></template>",
        "<a title='>' href='{{ link }}'>L</a>",
        "<a title=\"x\"href='{{ link }}'>L</a>",
        "<a\nhref\n=\n'{{ link }}'>L</a>",
        "<a href='&#32;{{ link }}'>L</a>",
        "<a href='{% if x %}https://a.example/{% endif %}{{ link }}'>L</a>",
        "<a href='{% if x %}{% else %}https://a.example/{% endif %}{% if y %}/{% endif %}{{ link }}'>L</a>",
        "<a {% if x %}href='{{ link }}'{% else %}title='{{ link }}'{% endif %}>L</a>",
        "<table><a href='{{ link }}'>L</a></table>",
        "<form action='{{ link }}'>",
        "<image src='{{ link }}'>",
    ],
)
def test_a_value_that_starts_a_link_is_found_wherever_a_reader_finds_it(source: str) -> None:
    with pytest.raises(RenderError, match="starts a link"):
        html_of(source, link=EVIL, x=True)
    assert "https://ok.example" in html_of(source, link="https://ok.example", x=True)


@pytest.mark.parametrize(
    "source",
    [
        "<!-- [if !mso] --><p title='{{ a }}'></p>",
        "<!--[if mso]><table><tr><td width='600'><![endif]--><p>{{ a }}</p><!--[if mso]></td></tr></table><![endif]-->",
        "<!--[if gte mso 9]><xml><o:PixelsPerInch>96</o:PixelsPerInch></xml><![endif]--><p>{{ a }}</p>",
        "<style>a:before{content:'<!--'}</style><p>{{ a }}</p>",
        "<p{% if x %} class='{{ a }}'{% endif %}>",
        "<p {% if x %}class='{{ a }}'{% else %}title='{{ a }}'{% endif %}>",
        '<p class="a{% if x %} b{% else %} c{% endif %}">{{ a }}',
        "<p bgcolor={% if x %}red{% else %}#00f{% endif %}>{{ a }}",
        '<p style="{% if x %}color:red">{% else %}color:blue">{% endif %}{{ a }}</p>',
        "{% if x %}<a href='https://x.example'>{% endif %}{{ a }}{% if x %}</a>{% endif %}",
        "<table>{% if x %}<tr><td>{{ a }}</td></tr>{% else %}<tr><td>-{{ a }}</td></tr>{% endif %}</table>",
        "<select><option>{{ a }}</option></select>",
        "<textarea>{{ a }}</textarea>",
        "<title>{{ a }}</title>",
        "I <3 you, {{ a }}. 5 < 6",
        '<input value="{{ a }}"/>',
        "<a href='https://x.example/?a={{ a|urlencode }}&b=2'>",
    ],
)
def test_a_value_where_escaping_is_enough(source: str) -> None:
    assert "V&lt;&#39;" in html_of(source, a="V<'", x=True) or "V%3C%27" in html_of(source, a="V<'", x=True)


@pytest.mark.parametrize(
    "source",
    [
        "<!--[if mso]><a href={{ a }}><![endif]-->",
        "<!--[if mso]><style>{{ a }}</style><![endif]-->",
        "<!--[if !mso]><!--><style>{{ a }}</style><!--<![endif]-->",
        "<iframe srcdoc='{{ a }}'></iframe>",
        "<p {% if x %}title='{% endif %}{{ a }}'>",
        "<p>{% if x %}<script>{% endif %}{{ a }}</p>",
        "<{% if x %}a href='{% endif %}{{ a }}'>",
        "<{% if x %}b{% else %}i{% endif %}>{{ a }}",
        "<a cla{% if x %}ss{% endif %}='x'>{{ a }}</a>",
        "<a href {% if x %}='{% endif %} title='{{ a }}'>",
        "<td class=x{% if x %} onclick=alert(1){% endif %}>{{ a }}",
        "<!-- {{ a }}->{{ a }} -->",
        "<!--{% if x %}--{% endif %}>{{ a }}-->",
        "<style></sty{% if x %}le>{% endif %}<p>{{ a }}</style>",
        "<p title='x' title='{{ a }}'>",
        "</p {{ a }}>",
        "<!{{ a }}>",
        "&lt;<{{ a }}",
        "<style>p{color:{{ a }}}</style>",
        "<svg><script>{{ a }}</script></svg>",
        "<title>{{ a }}",
    ],
)
def test_a_value_where_escaping_is_not_enough(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        html_of(source, a="x")
    assert caught.value.part == "html"


HTML = st.lists(
    st.sampled_from(
        [
            *("<p>", "</p>", "<a href='", "<a href=", '<b title="', "onclick='", "<svg>", "</svg>", "<table><tr><td>"),
            *("'>", '">', ">", "<", "</", "/", "'", '"', "=", " ", "x", "\n", "&", "&#39;", "-", "!"),
            *("<style>", "</style>", "<script>", "</script>", "<title>", "</title>", "<!--", "-->", "--!>"),
            *("<!--[if mso]>", "<![endif]-->", "<!--[if !mso]><!-->", "<!--<![endif]-->"),
            *("{{ v }}", "{{ v }}", "{{ v }}", "{% if c %}", "{% else %}", "{% endif %}"),
        ]
    ),
    max_size=14,
).map(lambda pieces: "<p>" + "".join(pieces))
VALUES = ["x", "-", "--", "b onclick=y ", "' onclick='y", "><b>", "/", "=", "<!--", "!"]


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """Tags with their attributes, as another parser sees them."""
    found = []
    nodes = [JustHTML(html, fragment=False, sanitize=False).root]
    while nodes:
        node = nodes.pop()
        if not node.name.startswith(("#", "!")):
            found.append((node.name, dict(node.attrs or {})))
        nodes += reversed(node.children or [])
    return found


def names_of(html: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attributes))) for tag, attributes in tags_of(html)]


def as_outlook(html: str) -> str:
    """What Outlook reads, roughly: conditional comments opened, and nothing hidden."""
    for mark in ("<!--[if mso]>", "<!--[if !mso]><!-->", "<!--<![endif]-->", "<![endif]-->"):
        html = html.replace(mark, " ")
    return html


@settings(deadline=None, max_examples=1500)
@given(HTML, st.booleans(), st.sampled_from(VALUES))
def test_no_value_changes_the_tags_another_parser_sees(source: str, c: bool, value: str) -> None:
    try:
        html = compile_content("s", source, "t").html
    except TemplateError:
        return
    assert html is not None
    plain, evil = html.render({"v": "https://x", "c": c}), html.render({"v": f"https://{value}", "c": c})
    assert names_of(plain) == names_of(evil)
    try:
        assert names_of(html.render({"v": value, "c": c})) == names_of(plain)
        scripted = html.render({"v": EVIL, "c": c})
    except RenderError:
        return
    for seen in (scripted, as_outlook(scripted)):
        links = [attributes.get(name) or "" for _, attributes in tags_of(seen) for name in ("href", "src")]
        assert not any(link.strip().startswith(EVIL) for link in links)


def test_html_with_every_private_use_character_is_refused() -> None:
    with pytest.raises(TemplateError, match="private-use"):
        html_of("<p>" + "".join(map(chr, range(0xE000, 0xF900))))


@pytest.mark.parametrize(
    "source",
    [
        "<style>@media only screen and (max-width:480px){#templateBody{width:100%!important}}</style><p>{{ a }}</p>",
        "<STYLE type='text/css'>{#a{b:c}}</STYLE><p>{{ a }}</p>",
        "<!--[if mso]><style>{#a{b:c}}</style><![endif]--><p>{{ a }}</p>",
        '<script type=\'application/ld+json\'>{"a":{"b":"{#"}}</script><p>{{ a }}</p>',
    ],
)
def test_css_and_scripts_hold_no_notes(source: str) -> None:
    assert html_of(source, a="V") == source.replace("{{ a }}", "V")


def test_notes_elsewhere_are_not_sent() -> None:
    assert html_of("<!-- <style> -->{# a #}<p>{# {#main{} #}x</p><style>{#b{}</style>") == (
        "<!-- <style> --><p>x</p><style>{#b{}</style>"
    )
    with pytest.raises(TemplateError, match="opens a note"):
        html_of("<p>{# open</p>")
