"""`VASHSENDER_RELAY_GROUPS`, and the relays that belong to its groups."""

import pytest
from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.relay_groups import NO_GROUP, parse_groups
from shared.relays.url import relays_of
from shared.settings import SenderSettings


def settings(relays: str, groups: str = "bulk=news.example.com vip") -> SenderSettings:
    return SenderSettings(relays=SecretStr(relays), relay_groups=groups)


def test_a_campaign_has_the_group_it_names_else_that_of_its_domain() -> None:
    groups = parse_groups("bulk=news.example.com,PROMO.example.com vip")
    assert groups.names == ("bulk", "vip")
    assert groups.group_of("vip", "a@news.example.com") == "vip"
    assert groups.group_of(None, "a@News.example.com") == "bulk"
    assert groups.group_of(None, "a@promo.example.com") == "bulk"
    assert groups.group_of(None, "a@example.com") == NO_GROUP
    assert parse_groups("").names == ()


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("Bulk", "lower-case"),
        ("=a.example", "lower-case"),
        ("bulk bulk=a.example", "there twice"),
        ("bulk=a.example vip=a.example", "a.example belongs to bulk and to vip"),
    ],
)
def test_groups_that_cannot_be_used(setting: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        parse_groups(setting)


def test_relays_of_groups() -> None:
    relays = relays_of(settings("smtps://a smtps://b?group=bulk smtps://c?group=vip"))
    assert [relay.group for relay in relays] == [NO_GROUP, "bulk", "vip"]


@pytest.mark.parametrize(
    ("relays", "problem"),
    [
        ("smtps://a smtps://b?group=bulk", "no relay has group=vip"),
        ("smtps://a smtps://b?group=bulk smtps://c?group=other", "name this group in VASHSENDER_RELAY_GROUPS"),
        ("smtps://b?group=bulk smtps://c?group=vip", "campaigns without one need a relay"),
    ],
)
def test_relays_that_do_not_fit_the_groups(relays: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        relays_of(settings(relays))
