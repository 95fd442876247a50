"""A body with too many values is refused before it is parsed; long texts are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.web import json_size
from services.api.web.json_size import MOST_VALUES, TooManyValuesError, check_values

TOO_MANY: dict[str, Any] = {
    "items": [1] * (MOST_VALUES + 1),
    "objects": [{}] * MOST_VALUES,
    "members": {str(number): 1 for number in range(MOST_VALUES + 1)},
    "texts": [","] * (MOST_VALUES + 1),
    "quotes": ['"'] * (MOST_VALUES + 1),
}


@pytest.mark.parametrize("case", TOO_MANY)
async def test_too_many_values_are_refused(case: str) -> None:
    with pytest.raises(TooManyValuesError, match="NDJSON"):
        await check_values(json.dumps(TOO_MANY[case]).encode())


async def test_nesting_counts() -> None:
    with pytest.raises(TooManyValuesError):
        await check_values(b"[" * (MOST_VALUES + 1))


@pytest.mark.parametrize("text", ["a,b{c[d" * 300_000, 'class="x", ' * 300_000, "\\," * 300_000, '\\"' * 300_000])
async def test_a_long_text_is_one_value(text: str) -> None:
    await check_values(json.dumps({"html": text, "subject": "s"}).encode())


values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('",[]{}\\a')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('",[{\\')), inner),
)


def counted(value: Any) -> int:
    """Commas outside of strings, and opening brackets."""
    if not isinstance(value, list | dict):
        return 0
    items = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(items) - 1) + sum(counted(item) for item in items)


@given(values)
async def test_the_count_is_that_of_the_parsed_body(value: Any) -> None:
    body, number = json.dumps(value).encode(), counted(value)
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(json_size, "MOST_VALUES", number)
        if body.count(b'"') <= 4 * number:
            await check_values(body)
        patch.setattr(json_size, "MOST_VALUES", number - 1)
        with pytest.raises(TooManyValuesError):
            await check_values(body)
