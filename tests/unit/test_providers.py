"""The table of providers: each domain once, in lower case; a look-up costs next to nothing."""

import time
from collections import Counter

import pytest

from shared.errors import ConfigurationError
from shared.providers import DEFAULT_EMAILS_PER_SECOND, DEFAULT_IN_FLIGHT, PROVIDERS, Providers, parse_providers


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("gmail.com", "gmail"),
        ("hotmail.co.uk", "outlook"),
        ("aol.com", "yahoo"),
        ("me.com", "icloud"),
        ("bk.ru", "mail.ru"),
        ("ya.ru", "yandex"),
        ("web.de", "gmx"),
        ("wanadoo.fr", "orange"),
        ("comcast.net", "comcast"),
        ("126.com", "netease"),
        ("example.org", "example.org"),
    ],
)
def test_a_domain_has_one_provider(domain: str, name: str) -> None:
    providers = Providers()
    assert providers.name_of(domain) == providers.of(domain).name == name


def test_every_domain_is_listed_once_in_lower_case() -> None:
    domains = Counter(domain for provider in PROVIDERS for domain in provider.domains)
    assert [domain for domain, times in domains.items() if times > 1 or domain != domain.lower()] == []


def test_names_are_unique() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)


def test_a_number_that_is_not_the_default_names_its_source() -> None:
    defaults = (DEFAULT_IN_FLIGHT, DEFAULT_EMAILS_PER_SECOND)
    unsourced = [
        provider.name
        for provider in PROVIDERS
        if (provider.in_flight, provider.emails_per_second) != defaults and not provider.source
    ]
    assert unsourced == []


def test_a_setting_adds_domains() -> None:
    providers = Providers({"example.edu": "gmail", "example.net": "our-hosting", "example.com": "our-hosting"})
    assert providers.of("example.edu").in_flight == providers.of("gmail.com").in_flight
    assert providers.of("example.net") is providers.of("example.com")


def test_a_setting_cannot_move_a_domain() -> None:
    with pytest.raises(ConfigurationError, match=r"gmail\.com belongs to the provider gmail"):
        Providers({"gmail.com": "outlook"})


def test_a_look_up_takes_less_than_a_microsecond() -> None:
    name_of = Providers().name_of
    times = 100_000
    took = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            name_of("gmail.com")
        took.append((time.process_time() - began) / times)
    assert min(took) < 1e-6


def test_the_setting_is_read() -> None:
    providers = parse_providers("Example.edu=gmail  example.net=our-hosting")
    assert (providers.name_of("example.edu"), providers.name_of("example.net")) == ("gmail", "our-hosting")
    with pytest.raises(ConfigurationError, match="DOMAIN=PROVIDER"):
        parse_providers("example.edu")


@pytest.mark.parametrize(
    ("setting", "domain", "in_flight", "emails_per_second"),
    [
        ("", "gmail.com", None, None),
        ("", "example.org", None, None),
        ("table", "gmail.com", 5, DEFAULT_EMAILS_PER_SECOND),
        ("table", "example.org", None, None),
        ("gmail=20:500", "googlemail.com", 20, 500.0),
        ("gmail=20", "gmail.com", 20, None),
        ("gmail=:0.5", "gmail.com", None, 0.5),
        ("table gmail=off yahoo=1", "gmail.com", None, None),
        ("gmail=20 table", "gmail.com", 20, None),
        ("*=10", "example.org", 10, None),
        ("*=10", "gmail.com", None, None),
        ("*=10 table", "gmail.com", 5, DEFAULT_EMAILS_PER_SECOND),
        ("*=10 example.org=off", "example.org", None, None),
        ("our-hosting=2:5", "example.net", 2, 5.0),
        ("Example.org=2:5", "example.org", 2, 5.0),
    ],
)
def test_a_setting_changes_limits(
    setting: str, domain: str, in_flight: int | None, emails_per_second: float | None
) -> None:
    providers = parse_providers("example.net=our-hosting", setting)
    provider = providers.of(domain)
    assert (provider.in_flight, provider.emails_per_second) == (in_flight, emails_per_second)
    limited = in_flight is not None or emails_per_second is not None
    assert providers.limited(domain) == (provider if limited else None)
    assert (provider.name in {one.name for one in providers.with_rates}) == (emails_per_second is not None)


@pytest.mark.parametrize(
    "setting", ["gmail", "=5", "gmail=", "gmail=0", "gmail=5:-1", "gmail=x", "gmail=1:nan", "*=1:5"]
)
def test_limits_that_mean_nothing_are_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="provider_limits"):
        parse_providers("", setting)
