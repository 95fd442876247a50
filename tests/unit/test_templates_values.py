"""What values mean in ifs and comparisons, what a message needs of them, and what it may cost."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.templates import MAX_VALUE_CHARACTERS, RenderError, TemplateError, Value, compile_content


def text_of(source: str, **values: Value) -> str:
    return compile_content("s", None, source).text.render(values)


@pytest.mark.parametrize(
    ("value", "decision"),
    [
        *((value, True) for value in ("true", "TRUE", "1", 1, True, "no", "No", "off", "yes", "Иван", "00", "+0", "7")),
        *((value, False) for value in ("false", "False", "0", "0.00", "-0", " 0 ", "", " ", 0, 0.0, False, None)),
    ],
)
def test_what_decides_an_if(value: Value, decision: bool) -> None:
    for source in ("{% if vip %}VIP{% else %}std{% endif %}", "{{ 'VIP' if vip else 'std' }}"):
        assert text_of(source, vip=value) == ("VIP" if decision else "std")
    assert text_of("{% if not vip %}std{% else %}VIP{% endif %}", vip=value) == ("VIP" if decision else "std")


@pytest.mark.parametrize(
    ("test", "value", "holds"),
    [
        ("v > 5", "7", True),
        ("v > 5", "10", True),
        ("v > 5", "3", False),
        ("v > 5", " 7 ", True),
        ("v > 5", "5.01", True),
        ("v > 5", -2, False),
        ("v > 5", "-2", False),
        ("v == 7", "7", True),
        ("v == 7", "7.0", True),
        ("7 == v", "7", True),
        ("v != 7", "7", False),
        ("v == 7", "x", False),
        ("v == 7", None, False),
        ("v in [5, 7]", "7", True),
        ("v not in [5, 7]", "7", False),
        ("v == '7'", 7, True),
        ("v == 7001", "07001", False),
        ("v == '07001'", "07001", True),
        ("v == 491", "+491", False),
        ("v == true", "true", True),
        ("v == true", "1", True),
        ("v == false", "no", True),
        ("v == 'yes'", True, True),
        ("v == 'DE'", "DE", True),
        ("v < '9'", "10", False),
        ("v < 'b'", "a", True),
        ("1 < v <= 3", "3", True),
        ("v and v > 5", "", False),
        ("v|default(0) > 5", "", False),
    ],
)
def test_numbers_written_as_text_compare_as_numbers(test: str, value: Value, holds: bool) -> None:
    assert text_of(f"{{% if {test} %}}yes{{% endif %}}", v=value) == ("yes" if holds else "")


@given(st.integers(-(10**9), 10**9) | st.decimals(-10_000, 10_000, places=2), st.integers(-100, 100))
def test_a_number_and_its_text_compare_alike(value: object, other: int) -> None:
    source = f"{{% if v > {abs(other)} %}}>{{% endif %}}{{% if v == {abs(other)} %}}={{% endif %}}"
    assert text_of(source, v=str(value)) == text_of(source, v=float(value))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["07001", "+49 30 1234", "1e5", "7.10", "No", "true", "1,5"])
def test_text_prints_as_it_came(value: str) -> None:
    assert text_of("{{ v }}{% if v %}!{% endif %}", v=value) == f"{value}!"


def problem(subject: str, html: str, **data: object) -> str:
    found = compile_content(subject, html, None).problem(data)
    return found.message if found else ""


@pytest.mark.parametrize(
    ("html", "data", "expected"),
    [
        ("<p>Hi {{ name }}!</p>", {}, "There is no 'name', which the message needs."),
        ("<p>Hi {{ name }}!</p>", {"name": ""}, "The value of 'name' is empty"),
        ("<p>Hi {{ name }}!</p>", {"name": " \t"}, "The value of 'name' is empty"),
        ("<p>Hi {{ name }}!</p>", {"name": 0}, ""),
        ("<p>Hi {{ name|default('you') }}!</p>", {"name": ""}, ""),
        ("<p>{% if name %}Hi {{ name }}!{% endif %}</p>", {"name": ""}, ""),
        ("<p>{% if orders > 5 %}x{% endif %}</p>", {"orders": "7"}, ""),
        ("<p>{% if orders > 5 %}x{% endif %}</p>", {"orders": "many"}, "The value of 'orders' must be a number"),
        ("<p>{% if orders > 5 %}x{% endif %}</p>", {"orders": ""}, "The value of 'orders' must be a number"),
        ("<p>{% if orders > 5 %}x{% endif %}</p>", {"orders": "1,5"}, "The value of 'orders' must be a number"),
        ("<p>{% if orders and orders > 5 %}x{% endif %}</p>", {"orders": ""}, ""),
        ("<p>{% if vip %}{% if orders > 5 %}x{% endif %}{% endif %}</p>", {"orders": "many", "vip": "0"}, ""),
        ("<p>{% if vip %}{% if orders > 5 %}x{% endif %}{% endif %}</p>", {"orders": "many", "vip": "1"}, "'orders'"),
        ("<p>{% if orders == 7 %}x{% endif %}</p>", {"orders": "many"}, ""),
        ("<a href='{{ link }}'>x</a>", {"link": "shop.example/x"}, "The value of 'link' starts a link"),
        ("<a href='{{ link }}'>x</a>", {"link": "javascript:x"}, "The value of 'link' starts a link"),
        ("<a href='{{ link }}'>x</a>", {"link": "https://shop.example"}, ""),
        ("<a href='https://x.example/{{ link }}'>x</a>", {"link": "shop"}, ""),
        ("{% if link %}<a href='{{ link }}'>x</a>{% endif %}", {"link": ""}, ""),
        ("{% if link %}<a href='{{ link }}'>x</a>{% endif %}", {"link": "shop"}, "The value of 'link' starts a link"),
        ("{% if go == '1' %}<a href='{{ link }}'>x</a>{% endif %}", {"link": "n/a", "go": "0"}, ""),
    ],
)
def test_what_is_certain_at_import_is_said_at_import(html: str, data: dict[str, object], expected: str) -> None:
    found = problem("s", html, **data)
    assert expected in found if expected else not found


def test_a_subject_is_one_line_at_import_too() -> None:
    assert "stands in the subject" in problem("Hi {{ name }}", "<p>x</p>", name="A\nB")
    assert not problem("Hi", "<p>{{ name }}</p>", name="A\nB")


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x", "7", "0", "https://x", "A\nB", None]))
)
def test_data_without_a_problem_can_be_rendered(data: dict[str, Value]) -> None:
    html = "{% if a %}<a href='{{ b }}'>{{ c }}</a>{% elif c > 5 %}{{ b|upper }}{% endif %}"
    content = compile_content("{{ b|default('s') }}", html, None)
    if content.problem(data) is None:
        for template in content.templates():
            template.render(data)


def test_what_a_message_needs_is_plain_data() -> None:
    content = compile_content(
        "{{ name }}", "<a href='{{ link }}'>{% if vip %}{% if 5 < orders %}x{% endif %}{% endif %}</a>", None
    )
    needs = {
        use.name: (use.required, use.is_one_line, use.is_link, use.is_decision, use.is_number)
        for use in content.fields.values()
    }
    assert needs == {
        "name": (True, True, False, False, False),
        "link": (True, False, True, False, False),
        "vip": (False, False, False, True, False),
        "orders": (False, False, False, False, True),
    }


EMOJI = "😀"


@pytest.mark.parametrize(
    "source",
    [
        "{% if '" + EMOJI * 60_000 + "'" + "|urlencode" * 47 + " == 'a' %}x{% endif %}",
        "{% if '" + EMOJI * 9_000 + "'|urlencode == 'a' %}x{% endif %}",
        "{{ '" + "%" * 4_000 + "'|urlencode }}",
        "{{ a|default('" + "x" * 10_001 + "') }}",
        "{{ a }}" * 21_000,
        "{% if a in [" + "1, " * 61_000 + "1] %}x{% endif %}",
    ],
)
def test_templates_that_could_be_costly_are_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        compile_content("s", None, source)


@pytest.mark.parametrize(
    "source", ["<div>" * 150_000, "<p " + "".join(f"a{number} " for number in range(100_000)) + ">x</p>"]
)
def test_html_that_takes_the_parser_too_long_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="too long to read"):
        compile_content("s", source, "t")


def test_a_message_is_bounded() -> None:
    for html in (None, "<p>" + "{{a}}" * 4_000):
        content = compile_content("s", html, "{{a}}" * 4_000)
        assert content.text.render({"a": "x"}) == "x" * 4_000
        longest = content.html or content.text
        with pytest.raises(RenderError, match="longer than 10000000 bytes"):
            longest.render({"a": "x" * MAX_VALUE_CHARACTERS})
    small = compile_content("s", None, "{{a}}{{a}}", max_message_bytes=1_000)
    with pytest.raises(RenderError, match="longer than 1000 bytes"):
        small.text.render({"a": "x" * 501})


def test_filters_share_what_they_may_read() -> None:
    source = "{% if a" + "|urlencode" * 47 + " == 'a' %}x{% endif %}"
    with pytest.raises(RenderError, match="too long"):
        text_of(source, a=EMOJI * 800)
    with pytest.raises(RenderError, match="too long"):
        text_of(source * 40, a="x" * 9_000 + "%")
    assert text_of(source * 40, a="x" * 500) == ""


PIECES = st.sampled_from(
    [
        *(
            "{{ a",
            "{{ 'x' * 9",
            "{% if a",
            "{% if 'yyyy'",
            "|urlencode",
            "|upper",
            "|default(b)",
            " == ",
            " and ",
            " in [",
        ),
        *("'z'", "1,", "]", " }}", " %}", "{% endif %}", "{% else %}", "<p>", "<a href='", "'>", "text ", "{#", "#}"),
    ]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=20).map("".join), st.integers(1, 2_000))
def test_no_template_exceeds_its_budget(source: str, times: int) -> None:
    began = time.thread_time()
    try:
        content = compile_content("s", source * times, source * times)
        for template in content.templates():
            rendered = template.render({"a": EMOJI * MAX_VALUE_CHARACTERS, "b": "&" * MAX_VALUE_CHARACTERS})
            assert len(rendered) <= 10_000_000
    except (TemplateError, RenderError):
        pass
    assert time.thread_time() - began < 10


@pytest.mark.parametrize(
    ("source", "ours"),
    [
        ("Hi *|FNAME|*", "{{ first_name }}"),
        ("Hi *|MERGE1|*", "{{ merge1 }}"),
        ("<a href='*|UNSUB|*'>x</a>", "{{ unsubscribe_url }}"),
        ("<a href='https://x.example/%7B%7B%20name%20%7D%7D'>x</a>", "{{ name }}"),
        ("<a href='https://x.example/%7b%7bname%7d%7d'>x</a>", "{{ name }}"),
        ("Hi [[name]]", "{{ name }}"),
        ('Hi [[data:firstname:"you"]]', ""),
        ("Hi %recipient.name%", "{{ name }}"),
        ("Hi %FIRSTNAME%", "{{ first_name }}"),
        ("Hi %%First Name%%", "{{ first_name }}"),
        ("Hi @@FirstName@@", "{{ first_name }}"),
        ("Hi «First_Name»", "{{ first_name }}"),
        ("Hi {$name}", "{{ name }}"),
        ("Hi ${name}", "{{ name }}"),
        ("Hi ${ lead.FirstName }", "{{ first_name }}"),
        ("Hi {!Contact.LastName}", "{{ last_name }}"),
        ("Hi #{name}", "{{ name }}"),
        ("Hi <%= name %>", "{{ name }}"),
        ("Hi &lt;&lt;First Name&gt;&gt;", "{{ first_name }}"),
        ("Hi {name}", "{{ name }}"),
        ("[UNSUBSCRIBEURL]", "{{ unsubscribe_url }}"),
        ("[EMAIL]", "{{ email }}"),
        ("##name##", "{{ name }}"),
    ],
)
def test_merge_tags_of_other_systems_are_warnings_that_name_ours(source: str, ours: str) -> None:
    for content in (compile_content("s", None, source), compile_content("s", source, "t")):
        messages = [warning.message for warning in content.warnings]
        assert (len(messages) == 1 and messages[0].endswith(f"write {ours}")) if ours else not messages


@pytest.mark.parametrize(
    "source",
    [
        "<style>a{b:c}@media{.x{color:red}}</style><p style='width:100%'>50% off, 100%!</p>",
        "<a href='https://x.example/?q=%D0%BF%D1%80%20a%C3%A9'>x</a>",
        "<p>{{ name|default('%x%') }}{% raw %}*|A|*{% endraw %}{# [[a]] #}</p>",
        "<p>[1] see {} and { a } or [x](https://x.example)</p>",
        "<p>Write &#123;&#123; name &#125;&#125;</p>",
        "<script type='application/ld+json'>{\"a\": {b}}</script>",
    ],
)
def test_what_is_no_merge_tag_is_no_warning(source: str) -> None:
    assert compile_content("s", source, "t").warnings == ()


def test_warnings_say_where() -> None:
    content = compile_content("Hi *|A|*", "<style>\n{b}</style>\n<p>\n  [[c]] {d}</p>", None)
    places = [(warning.part, warning.line, warning.column) for warning in content.warnings]
    assert places == [("subject", 1, 4), ("html", 4, 3), ("html", 4, 9)]


def test_a_note_in_a_subject_is_not_lost_in_silence() -> None:
    content = compile_content("Order {#12345#}", None, "Order {#12345#} {# a note #}{% raw %}{#1#}{% endraw %}")
    assert [(one.part, one.message.split(" is ")[0]) for one in content.warnings] == [
        ("subject", "{#12345#}"),
        ("text", "{#12345#}"),
    ]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("{{ .Subscriber.Name }}", "a field is written {{ name }}"),
        ("{{{ firstName }}}", "a field is written {{ first_name }}"),
        ("{{ $name }}", "a field is written {{ name }}"),
        ("{{ @name }}", "a field is written {{ name }}"),
        ("{{ subscriber:first_name }}", "a field is written {{ first_name }}"),
        ("{{#if name}}x{{/if}}", "{% if name %}"),
        ("{{ name | default: 'x' }}", "{{ name|default('friend') }}"),
        ("{{ first name }}", "{{ first_name }}"),
        ("{% name %}", "{{ name }}"),
        ("{{ contact.NAME }}", "fields have no attributes"),
    ],
)
def test_tags_of_other_systems_in_our_braces_are_refused_with_ours(source: str, hint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_content("s", None, source)
    assert hint in str(caught.value)
