"""Bodies as people write them: what is accepted besides the documented form, and what is refused in our words."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.api.shapes.campaigns import CampaignIn, SendIn
from services.api.shapes.recipients import RecipientIn
from services.api.shapes.tenants import ProjectIn


@pytest.mark.parametrize(
    ("given", "data"),
    [
        ({"email": "a@b.test"}, {}),
        ({"email": "a@b.test", "data": {"name": "Ann"}}, {"name": "Ann"}),
        (
            {"email": "a@b.test", "name": "Ann", "vip": True, "n": 7, "x": None},
            {"name": "Ann", "vip": True, "n": 7, "x": None},
        ),
        ({"email": "a@b.test", "name": "Ann", "data": {"city": "Rome"}}, {"name": "Ann", "city": "Rome"}),
        ({"email": "a@b.test", "name": "Ann", "data": None}, {"name": "Ann"}),
    ],
)
def test_an_inline_recipient_may_be_flat_as_in_an_import(given: dict[str, Any], data: dict[str, Any]) -> None:
    assert RecipientIn.model_validate(given).data == data


@pytest.mark.parametrize(
    "given", [{"emial": "a@b.test"}, {"email": "a@b.test", "tags": ["x"]}, {"email": "a@b.test", "data": 5}, 5]
)
def test_what_cannot_be_a_recipient_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        RecipientIn.model_validate(given)


def test_a_sender_as_plain_text_is_refused_with_the_form_it_should_have() -> None:
    with pytest.raises(ValidationError, match="is an object, such as"):
        CampaignIn.model_validate({"name": "n", "subject": "s", "text": "t", "from": "News <news@example.test>"})


@pytest.mark.parametrize("member", ["scheduled_at", "deliver_by"])
@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "9999-01-01T00:00:00Z"])
def test_a_moment_beyond_all_plans_is_refused(member: str, moment: str) -> None:
    with pytest.raises(ValidationError, match="beyond the year 9998"):
        SendIn.model_validate({member: moment})


@pytest.mark.parametrize("name", ["shop\u200b", "\u202eshop", "sh\u00adop", "  ", "\u3000", "a\u2028b"])
def test_a_name_that_looks_like_another_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ProjectIn(name=name)


@pytest.mark.parametrize(
    ("given", "name"), [(" shop ", "shop"), ("cafe\u0301", "caf\u00e9"), ("Магазин 1", "Магазин 1")]
)
def test_a_name_has_one_form(given: str, name: str) -> None:
    assert ProjectIn(name=given).name == name
