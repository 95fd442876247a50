"""Templates: what is allowed, what is refused and where, and what a recipient gets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import ChainableUndefined
from jinja2.sandbox import SandboxedEnvironment

from shared.templates import (
    MAX_VALUE_CHARACTERS,
    Content,
    MissingFieldError,
    RenderError,
    TemplateError,
    Value,
    compile_content,
    is_field_name,
)

URL = "https://mail.example.com/u/token"


def text_of(source: str, **values: Value) -> str:
    return compile_content("s", None, source).text.render(values)


def html_of(source: str, **values: Value) -> str:
    html = compile_content("s", source, "t").html
    assert html is not None
    return html.render(values)


def rendered(content: Content, **values: Value) -> list[str]:
    return [template.render(values) for template in content.templates()]


def refusal(part: str, source: str) -> TemplateError:
    parts = {"subject": "s", "html": None, "text": "t"} | {part: source}
    with pytest.raises(TemplateError) as caught:
        compile_content(parts["subject"] or "", parts["html"], parts["text"])
    return caught.value


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("Hi {{ name }}!", {"name": "Анна"}, "Hi Анна!"),
        ("{{ имя }}", {"имя": "x"}, "x"),
        ("{{ a|upper }}{{ a|lower }}{{ b|title }}{{ b|capitalize }}", {"a": "aB", "b": "x YZ"}, "ABabX YzX yz"),
        ("[{{ a|trim }}][{{ a|trim|upper }}]", {"a": " x "}, "[x][X]"),
        ("{{ a|urlencode }}", {"a": "a b/ё&"}, "a%20b/%D1%91%26"),
        ("{{ n }} {{ f }} {{ b }}", {"n": 5, "f": 1.5, "b": True}, "5 1.5 True"),
        ("{{ n|upper }}", {"n": 5}, "5"),
        ("{{ a|default('you') }}", {}, "you"),
        ("{{ a|default('you') }}", {"a": None}, "you"),
        ("{{ a|default('you') }}", {"a": ""}, "you"),
        ("{{ a|default('you', true) }}", {"a": ""}, "you"),
        ("{{ a|default(1) }}{{ a|default(1, true) }}", {"a": 0}, "01"),
        ("{{ a|default(b) }}", {"b": "B"}, "B"),
        ("{{ a|upper|default('you') }}", {}, "you"),
        ("{{ a or b }}", {"a": "", "b": "B"}, "B"),
        ("{{ 'x' if a else 'y' }}{{ 'z' if a }}", {}, "y"),
        ("{% if a %}A{% elif b == 2 %}B{% else %}C{% endif %}", {"b": 2}, "B"),
        ("{% if a %}A{% elif b == 2 %}B{% else %}C{% endif %}", {}, "C"),
        ("{% if a %}A{% endif %}", {"a": False}, ""),
        ("{% if not a and b is defined and c is not defined %}A{% endif %}", {"b": 0}, "A"),
        ("{% if country in ['DE', 'AT'] and country not in ('FR',) %}A{% endif %}", {"country": "AT"}, "A"),
        ("{% if 1 < n <= 3 %}A{% endif %}", {"n": 3}, "A"),
        ("{% if a is none %}A{% endif %}", {}, "A"),
        ("{# a note #}a{% raw %}{{ b }}{% endraw %}", {}, "a{{ b }}"),
        ("a  {%- if true %} b {%- endif %}\n", {}, "a b\n"),
        ("a\r\nb\rc\n", {}, "a\nb\nc\n"),
    ],
)
def test_the_safe_subset_renders_as_jinja_users_expect(source: str, values: dict[str, Value], expected: str) -> None:
    assert text_of(source, **values) == expected


@pytest.mark.parametrize(
    ("source", "line", "column", "message"),
    [
        ("{% for x in y %}{% endfor %}", 1, 4, "loops"),
        ("a\n  {{ f() }}", 2, 7, "calls"),
        ("a\r\n\r\n{{ x }} {{ a.b }}", 3, 13, "no attributes"),
        ("{{ a['b'] }}", 1, 5, "no items"),
        ("{{ 'a' * 200000000 }}", 1, 4, "arithmetic"),
        ("{{ 1 + a }}", 1, 4, "arithmetic"),
        ("{{ -a }}", 1, 4, "arithmetic"),
        ("{{ a ~ b }}", 1, 4, "joining"),
        ("{{ a|safe }}", 1, 6, "no filter 'safe'; available: default, upper"),
        ("{{ a|upper(1) }}", 1, 6, "no arguments"),
        ("{{ a|default }}", 1, 6, "say what the default is"),
        ("{% set a = 1 %}", 1, 4, "set"),
        ("{% include 'a' %}", 1, 4, "include"),
        ("{% import 'a' as b %}", 1, 4, "import"),
        ("{% from 'a' import b %}", 1, 4, "import"),
        ("{% extends 'a' %}", 1, 4, "extends"),
        ("{% block a %}{% endblock %}", 1, 4, "blocks"),
        ("{% macro a() %}{% endmacro %}", 1, 4, "macros"),
        ("{% call a() %}{% endcall %}", 1, 4, "macros"),
        ("{% filter upper %}{% endfilter %}", 1, 4, "filter blocks"),
        ("{% with %}{% endwith %}", 1, 4, "with"),
        ("{% autoescape false %}{{ a }}{% endautoescape %}", 1, 4, "autoescape is not"),
        ("{{ [1] }}", 1, 4, "a list can only stand after 'in'"),
        ("{{ {'a': 1} }}", 1, 4, "dictionaries"),
        ("{% if a in b %}{% endif %}", 1, 12, "write a list after 'in'"),
        ("{% if a in [b] %}{% endif %}", 1, 12, "only hold constants"),
        ("{% if a is even %}{% endif %}", 1, 9, "only the tests"),
        ("{% if a %}", 1, 9, "endif"),
        ("{% foo %}", 1, 4, "unknown tag 'foo'"),
        ("{% foo 1 %}", 1, 4, "unknown tag 'foo'; possible are if"),
        ("a{% endif %}", 1, 5, "{% endif %} stands here without an {% if %} before it"),
        ("{% for a in b %}", 1, 15, "loops are not available"),
        ("{{ }}", 1, 4, "nothing stands inside the braces"),
        ("{{ a|default(“x”) }}", 1, 14, "“ is no quote here"),
        ("{{&nbsp;a }}", 1, 3, "an entity such as &nbsp;"),
        ("{{<b>a</b>}}", 1, 3, "HTML tags stand inside the braces"),
        ("{{ a b c d e }}", 1, 6, "expected token '}}', got 'b'"),
        ("\n {{ @ }}", 2, 5, "unexpected char '@'"),
        ("{{ a", 1, 4, "the braces are not closed; write }} or %}"),
        ("{{ " + "(" * 5000 + "a" + ")" * 5000 + " }}", 1, 1, "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", 1, 1, "a number that is too long"),
        ("{{ " + "a and " * 500 + "a }}", 1, 2700, "more than 50 steps"),
        ("{{ a" + "|upper" * 60 + " }}", 1, 60, "more than 50 steps"),
        ("{% if a %}" * 60 + "{% endif %}" * 60, 1, 504, "more than 50 ifs"),
        ("a\ud800", 1, 1, "surrogate"),
    ],
)
def test_everything_else_is_refused_with_its_place(source: str, line: int, column: int, message: str) -> None:
    error = refusal("text", source)
    assert (error.part, error.line, error.column) == ("text", line, column)
    assert message in str(error)
    assert str(error).startswith(f"text, line {line}, column {column}: ")


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "\ud800"])
def test_a_subject_is_one_line(character: str) -> None:
    assert refusal("subject", f"Hi{character}there").column == 3
    subject = compile_content("Hi {{ name }}", None, "t").subject
    with pytest.raises(RenderError) as caught:
        subject.render({"name": f"A{character}Bcc: x@example.com"})
    assert (caught.value.part, caught.value.field) == ("subject", "name")
    assert "x@example.com" not in str(caught.value)


def test_values_are_escaped_in_html_only() -> None:
    content = compile_content("{{ a }}", "<p title=\"{{ a }}\">{{ a }}{{ '<i>' }}</p>", "{{ a }}")
    subject, html, text = rendered(content, a="<b>&\"'")
    assert html == '<p title="&lt;b&gt;&amp;&#34;&#39;">&lt;b&gt;&amp;&#34;&#39;&lt;i&gt;</p>'
    assert subject == text == "<b>&\"'"


@pytest.mark.parametrize(
    "source",
    [
        "<a {{ a }}>",
        "<a b{{ a }}='x'>",
        "<{{ a }}>",
        "</{{ a }}>",
        "<h{{ a }}>",
        "<a href={{ a }}>",
        "<a href=x{{ a }}>",
        "<a\nhref = {{ a }}>",
        "<a {% if a %}href={% endif %}{{ a }}>",
        "<a onclick=\"f('{{ a }}')\">",
        "<script>{{ a }}</script>",
        "<STYLE>p {}{{ a }}</STYLE>",
        "<!--[if mso]><a href={{ a }}><![endif]-->",
        "<script>'</p>' {{ a }}</script>",
    ],
)
def test_no_value_where_escaping_does_not_help(source: str) -> None:
    assert refusal("html", source).part == "html"


@pytest.mark.parametrize(
    "source",
    [
        "<p>{{ a }}</p>",
        "<p title='{{ a }}' class=x>",
        '<p style="width: {{ a }}%">',
        "<!-- {{ a }} --><p>{{ a }}",
        "<!--[if mso]><p title='{{ a }}'><![endif]-->{{ a }}",
        "<script>x</script><style>y</style>{{ a }}",
        "<br/>{{ a }}<img alt='' src=x />{{ a }}",
        "1 < 2 {{ a }}",
    ],
)
def test_values_elsewhere(source: str) -> None:
    assert html_of(source, a="V").count("V") == source.count("{{ a }}")


def test_a_value_in_an_attribute_of_one_branch() -> None:
    assert html_of("<a {% if b %}href='x'{% else %}title='{{ a }}'{% endif %}>", a="'") == "<a title='&#39;'>"


@pytest.mark.parametrize(
    "source",
    ["<p", "<p title='x", "<!-- ", "<script>", "{% if a %}<p title='{% endif %}'>", "<p>{% if a %}<{% endif %}p>"],
)
def test_html_is_whole_in_every_branch(source: str) -> None:
    refusal("html", source)


@pytest.mark.parametrize(
    "source",
    [
        '<a href="{{ a }}">',
        "<a HREF=' {{ a }}'>",
        '<img src="{{ a }}/x.png">',
        '<a href="{% if b %}{% endif %}{{ a }}">',
        '<a href="{% if b %}https://x/{% endif %}{{ a }}">',
    ],
)
@pytest.mark.parametrize(
    "value", ["javascript:alert(1)", " https://x", "data:text/html,x", "//x", "", "vbscript:x", "x"]
)
def test_a_value_that_starts_a_link_must_be_one(source: str, value: str) -> None:
    with pytest.raises(RenderError, match="starts a link"):
        html_of(source, a=value)
    assert "https://ok.example/?a=1&amp;b=2" in html_of(source, a="https://ok.example/?a=1&b=2")


def test_a_value_inside_a_link_is_only_escaped() -> None:
    assert html_of('<a href="https://x/{{ a }}">', a="javascript:'") == '<a href="https://x/javascript:&#39;">'


def test_a_missing_value_is_named() -> None:
    for values in ({}, {"name": None}):
        with pytest.raises(MissingFieldError, match="name") as caught:
            text_of("Hi {{ name|upper }}", **values)
        assert (caught.value.part, caught.value.field) == ("text", "name")


def test_values_are_bounded() -> None:
    with pytest.raises(RenderError, match="exceeds"):
        text_of("{{ a }}", a="x" * (MAX_VALUE_CHARACTERS + 1))


def test_values_of_different_kinds_do_not_compare() -> None:
    with pytest.raises(RenderError, match="different kinds"):
        text_of("{% if a < 5 %}{% endif %}", a="x")
    with pytest.raises(RenderError, match="different kinds"):
        text_of("{{ 'x' if a < 5 }}")


def test_structured_values_are_refused() -> None:
    with pytest.raises(RenderError, match="neither text nor a number"):
        compile_content("s", None, "{{ a }}").text.render({"a": ["x"]})  # type: ignore[dict-item]


def test_fields_say_which_are_required_and_where() -> None:
    content = compile_content(
        "{{ a|default('x') }}",
        "{{ email }}{{ a }} {% if b and c %}{{ b }}{{ d }}{% endif %}{{ e or f }}",
        "{% if g is defined %}{{ g }}{% endif %}{{ unsubscribe_url }}",
    )
    required = {name: use.required for name, use in content.fields.items()}
    assert required == {"a": True, "b": False, "c": False, "d": True, "e": False, "f": True, "g": False}
    assert [(use.part, use.line, use.column) for use in content.missing({"d", "f"})] == [("html", 1, 15)]


@pytest.mark.parametrize(
    ("subject", "html", "text"), [("", None, "t"), (" ", None, "t"), ("s", None, None), ("s", "", "")]
)
def test_an_empty_message_is_refused(subject: str, html: str | None, text: str | None) -> None:
    with pytest.raises(TemplateError, match="empty"):
        compile_content(subject, html, text)


def test_oversized_parts_are_refused() -> None:
    with pytest.raises(TemplateError, match="longer than"):
        compile_content("s", None, "x" * 1_000_001)
    with pytest.raises(TemplateError, match="longer than"):
        compile_content("s" * 2_001, None, "x")


@pytest.mark.parametrize(
    ("name", "usable"), [("name", True), ("имя_2", True), ("First Name", False), ("2x", False), ("if", False)]
)
def test_field_names(name: str, usable: bool) -> None:
    assert is_field_name(name) is usable


def soup(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces) | st.text(max_size=5), max_size=25).map("".join)


@settings(deadline=None, max_examples=300)
@given(
    soup(
        "{{",
        "}}",
        "{%",
        "%}",
        "if ",
        "endif",
        "else",
        " a ",
        "|",
        "default",
        "(",
        "'x'",
        "<a ",
        "href=",
        '"',
        ">",
        "{#",
    )
)
def test_any_source_compiles_or_is_refused(source: str) -> None:
    try:
        content = compile_content(source, source, source)
    except TemplateError:
        return
    try:
        rendered(content, a="<x")
    except RenderError:
        return


TAGS = (
    "<table>",
    "<tr>",
    "<td>",
    "</td>",
    "</table>",
    "<ul>",
    "<li>",
    "<p>",
    "<br>",
    "<!-- x -->",
    "<?xml version='1.0'?>",
)


@settings(deadline=None, max_examples=300)
@given(
    soup(
        *TAGS, "{{ a }}", "{% if a %}", "{% endif %}", "<div style='display:none'>", "</div>", "\0", "\ue000", " ", "\n"
    )
)
def test_text_is_derived_from_any_html_or_the_error_says_why(source: str) -> None:
    try:
        content = derived(source)
    except TemplateError:
        return
    assert content.text.render({"a": "\ue000s0\ue001"}).endswith("\n")


NAMES = st.sampled_from(["a", "b", "c", "word"])
CONSTANTS = st.sampled_from(["'x'", "'<b>'", "5", "true", "''"])


def expressions() -> st.SearchStrategy[str]:
    return st.recursive(
        NAMES | CONSTANTS,
        lambda inner: st.one_of(
            NAMES.map("{}|default('d', true)".format),
            st.sampled_from(["word|upper", "word|trim"]),  # of a number, these give a text that spells it
            st.tuples(inner, st.sampled_from(["and", "or", "==", "!="]), inner).map(
                lambda p: f"({p[0]} {p[1]} {p[2]})"
            ),
            inner.map(lambda expression: f"(not {expression})"),
            st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        ),
        max_leaves=5,
    )


def templates() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(["text ", "<p>", "\n"]) | expressions().map(lambda expression: f"{{{{ {expression} }}}}")
    return st.recursive(
        leaf,
        lambda inner: (
            st.tuples(expressions(), inner, expressions(), inner, inner).map(
                lambda p: f"{{% if {p[0]} %}}{p[1]}{{% elif {p[2]} %}}{p[3]}{{% else %}}{p[4]}{{% endif %}}"
            )
            | st.lists(inner, max_size=4).map("".join)
        ),
        max_leaves=8,
    )


@settings(deadline=None, max_examples=300)
@given(
    templates(),
    st.fixed_dictionaries(
        {name: st.sampled_from(["x", "<b>", " z ", 5, 2.5, True, ""]) for name in "abc"}
        | {"word": st.sampled_from(["x", "<b>", " z ", ""])}
    ),
)
def test_jinja_itself_renders_the_same(source: str, values: dict[str, Value]) -> None:
    """Jinja2 is the oracle wherever every field has a value that does not spell a number or a truth value."""
    jinja = SandboxedEnvironment(autoescape=True, undefined=ChainableUndefined, keep_trailing_newline=True)
    assert html_of("<br>" + source, **values) == "<br>" + jinja.from_string(source).render(**values)


HTML = """<html><head><title>T</title><style>p { color: red }</style></head><body>
<div style="display:none">preheader</div>
<h1>Hello {{ name|default('}} a  <b>') }}</h1>{# not sent #}
<table><tr><td>Order</td><td>{{ order }}</td></tr>
{% if vip %}
<tr><td>VIP</td><td>yes</td></tr>
{% else %}
<tr><td>no</td></tr>
{% endif %}
</table>
<p {% if vip %}class="x"{% endif %}>See <a href="https://x.example/?u={{ id }}">your   page</a>&nbsp;&copy; 5 &lt; 6</p>
<img alt="Logo" src="x.png"><a href="{{ unsubscribe_url }}">Unsubscribe</a></body></html>"""


def derived(html: str) -> Content:
    return compile_content("s", html, None)


def test_text_is_derived_with_fields_and_ifs_in_place() -> None:
    values: dict[str, Value] = {"order": "A & B", "id": 7, "unsubscribe_url": URL}
    lines = derived(HTML).text.render(values | {"vip": True}).split("\n")
    assert lines[0] == "Hello }} a  <b>"
    assert [line.strip() for line in lines if "Order" in line or "VIP" in line or line == "no"] == [
        "Order A & B",
        "VIP yes",
    ]
    assert "See [your page](https://x.example/?u=7)\xa0© 5 < 6" in lines or any("© 5 < 6" in line for line in lines)
    assert lines[-2:] == [f"[Logo][Unsubscribe]({URL})", ""]
    plain = derived(HTML).text.render(values | {"vip": False, "name": "Анна"})
    assert plain.startswith("Hello Анна\n")
    assert "VIP" not in plain
    assert "preheader" not in plain
    assert "color" not in plain


def test_where_no_text_can_be_derived_the_error_says_so() -> None:
    with pytest.raises(TemplateError, match="give the text yourself"):
        derived('<div style="display:none">{% if a %}</div>{% endif %}')


def test_html_without_words_gives_an_empty_text() -> None:
    assert derived("<br>").text.render({}) == "\n"
    assert derived("<!-- only -->").text.render({}) == "\n"
