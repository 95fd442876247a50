"""Words of strangers as logs, headers and databases take them."""

from hypothesis import given
from hypothesis import strategies as st

from shared.plain_text import one_line, printable


@given(st.text())
def test_every_character_stays_or_becomes_a_space(text: str) -> None:
    plain = printable(text)
    assert plain.isprintable()
    assert len(plain) == len(text)
    assert all(new == old or (new == " " and not old.isprintable()) for new, old in zip(plain, text, strict=True))


@given(st.text(), st.integers(0, 20))
def test_one_line_is_short_and_has_no_repeated_spaces(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert "  " not in line


def test_one_line_joins_lines() -> None:
    assert one_line(" 550 no\r\n such\tuser\0 ", 500) == "550 no such user"
