"""Relays as operators write them: one URL each, the settings for what the URLs leave open."""

import re
import socket
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import SecretStr

from cli.doctor import examine_relays
from cli.settings import LocalSettings
from shared.errors import ConfigurationError
from shared.relays.config import Login, RelayConfig, RelayLimits, Tls
from shared.relays.url import RelayUrlError, parse_relay, relays_of
from shared.settings import SenderSettings
from tests.support.smtp.certificates import Authority
from tests.support.smtp.configs import SETTINGS

LOCAL = LocalSettings.model_construct()


def with_relays(*urls: str, **others: object) -> LocalSettings:
    """The settings of an installation with these relays."""
    return LOCAL.model_copy(update={"relays": SecretStr(" ".join(urls)), **others})


@pytest.mark.parametrize(
    ("url", "tls", "port"),
    [
        ("smtp://relay.example.com", Tls.STARTTLS, 587),
        ("smtp://relay.example.com:2525", Tls.STARTTLS, 2525),
        ("smtp://relay.example.com?tls=none", Tls.NONE, 25),
        ("smtp://relay.example.com/?tls=implicit", Tls.IMPLICIT, 465),
        ("smtps://relay.example.com", Tls.IMPLICIT, 465),
    ],
)
def test_the_scheme_says_how_it_is_encrypted(url: str, tls: Tls, port: int) -> None:
    relay = parse_relay(url, SETTINGS)
    assert (relay.host, relay.name, relay.tls, relay.port) == ("relay.example.com", "relay.example.com", tls, port)


def test_user_and_password_in_the_url() -> None:
    assert parse_relay("smtps://me%40example.com:p%40ss@relay.example.com", SETTINGS).login == Login(
        "me@example.com", "p@ss"
    )
    assert parse_relay("smtps://relay.example.com", SETTINGS).login is None


def test_every_option(tmp_path: Path) -> None:
    ca_file = Authority(tmp_path).ca_file
    relay = parse_relay(
        f"smtp://[::1]:26?tls=none&verify=no&ca_file={ca_file}&helo=me.example&name=mx&connections=3"
        "&spare_connections=0&max_emails_per_connection=50&idle_seconds=5&max_age_seconds=9",
        SETTINGS,
    )
    assert (relay.host, relay.port, relay.name, relay.helo) == ("::1", 26, "mx", "me.example")
    assert (relay.verify, relay.ca_file) == (False, ca_file)
    assert (relay.connections, relay.spare_connections, relay.max_emails_per_connection) == (3, 0, 50)
    assert (relay.idle_seconds, relay.max_age_seconds) == (5, 9)


def test_limits_of_a_relay() -> None:
    url = "smtps://mx.example?emails_per_second=20&emails_per_hour=5000&emails_per_day=50000&warmup=500:1.5:40000"
    assert parse_relay(url, SETTINGS).limits == RelayLimits(20, 5000, 50000, (500, 1.5, 40000))
    assert parse_relay("smtps://mx.example?emails_per_day=9", SETTINGS).limits == RelayLimits(emails_per_day=9)
    assert parse_relay("smtps://mx.example", SETTINGS).limits is None


@pytest.mark.parametrize("value", ["", "500", "500:1:900", "500:x:900", "0:2:900", "900:2:500"])
def test_a_warm_up_that_is_none(value: str) -> None:
    with pytest.raises(RelayUrlError, match="START:GROWTH:UNTIL"):
        parse_relay(f"smtps://mx.example?warmup={value}", SETTINGS)


def test_the_settings_decide_what_the_url_leaves_open(tmp_path: Path) -> None:
    authority = Authority(tmp_path).ca_file
    settings = SETTINGS.model_copy(
        update={
            "smtp_connections": 3,
            "smtp_emails_per_connection": 50,
            "smtp_idle_seconds": 5.5,
            "smtp_age_seconds": 9.5,
            "ca_file": authority,
        }
    )
    relay = parse_relay("smtp://relay.example.com", settings)
    assert (relay.connections, relay.max_emails_per_connection) == (3, 50)
    assert (relay.idle_seconds, relay.max_age_seconds) == (5.5, 9.5)
    assert (relay.extra_ca_file, relay.helo) == (authority, socket.gethostname())


def test_an_option_whose_name_ends_in_anothers_does_not_hide_its_setting() -> None:
    settings = SETTINGS.model_copy(update={"smtp_connections": 3})
    relay = parse_relay("smtp://relay.example.com?spare_connections=0", settings)
    assert (relay.connections, relay.spare_connections) == (3, 0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("relay.example.com", "begins with smtp:// or smtps://"),
        ("http://relay.example.com", "begins with smtp:// or smtps://, not 'http'"),
        ("smtp://", "names a host"),
        ("smtp://:25", "names a host"),
        ("smtp://relay:port", "Port could not be cast"),
        ("smtp://relay:99999", "Port out of range"),
        ("smtp://relay/inbox", "no path"),
        ("smtp://relay#top", "no fragment"),
        ("smtp://relay?tls", "NAME=VALUE"),
        ("smtp://relay?tls=none&tls=starttls", "once"),
        ("smtp://relay?tls=maybe", "tls is none, starttls or implicit, not 'maybe'"),
        ("smtps://relay?tls=none", "no other value"),
        ("smtp://relay?verify=false", "verify is yes or no"),
        ("smtp://relay?connections=0", "whole number, at least 1"),
        ("smtp://relay?connections=many", "whole number"),
        ("smtp://relay?spare_connections=-1", "whole number, at least 0"),
        ("smtp://relay?conections=3", "unknown option conections"),
        ("smtp://relay?ca_file=/nothing.pem", "/nothing.pem: cannot be used as certificate authority"),
        ("smtp://me@relay", "user 'me' has no password"),
        ("smtp://me:secret@relay?tls=none", "never travels in the clear"),
    ],
)
async def test_a_wrong_url_stops_the_sender_and_doctor_says_so(url: str, words: str) -> None:
    with pytest.raises(RelayUrlError, match=words) as raised:
        parse_relay(url, SETTINGS)
    assert str(raised.value).startswith("VASHSENDER_RELAYS: ")
    assert "secret" not in str(raised.value)
    [examined] = await examine_relays(with_relays(url))
    assert (examined.ok, examined.found) == (False, str(raised.value))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_to_this_machine_a_password_may_go_in_the_clear(host: str) -> None:
    assert parse_relay(f"smtp://me:secret@{host}?tls=none", SETTINGS).login == Login("me", "secret")


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_relay("smtps://me:secret@relay.example.com", SETTINGS))


def test_relays_on_one_host_get_names_that_differ() -> None:
    relays = relays_of(with_relays("smtp://relay.test", "smtps://relay.test", "smtp://other.test?name=spare"))
    assert [relay.name for relay in relays] == ["relay.test", "relay.test:465", "spare"]
    with pytest.raises(RelayUrlError, match=r"two relays are called relay\.test:587"):
        relays_of(with_relays("smtp://relay.test", "smtp://relay.test", "smtp://relay.test"))


def test_without_a_relay_development_mail_goes_to_the_mailbox_at_its_port() -> None:
    [relay] = relays_of(with_relays(mailbox_port=12345))
    assert (relay.name, relay.host, relay.port, relay.tls) == ("mailbox", "127.0.0.1", 12345, Tls.NONE)
    [relay] = relays_of(with_relays(http_host="::1"))
    assert (relay.host, relay.port) == ("::1", LOCAL.mailbox_port)


async def test_without_a_relay_nothing_starts_in_production() -> None:
    settings = with_relays(environment="production")
    with pytest.raises(ConfigurationError, match="VASHSENDER_RELAYS is empty"):
        relays_of(settings)
    [examined] = await examine_relays(settings)
    assert not examined.ok


def test_the_default_of_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    defaults = dict(re.findall(r"^\| `(\w+)=[^|]* \| ([^|]+) \|$", page, re.MULTILINE))
    settings = {name: text.removeprefix("`VASHSENDER_").rstrip("`").lower() for name, text in defaults.items()}
    for number, (option, setting) in enumerate(settings.items()):
        if setting in SenderSettings.model_fields and setting != "ca_file":
            relay = parse_relay("smtp://relay.test", SETTINGS.model_copy(update={setting: 100 + number}))
            assert getattr(relay, option) == 100 + number
    relay = parse_relay("smtp://relay.test", SETTINGS)
    assert defaults["spare_connections"] == str(relay.spare_connections)
    own = {"host", "port", "login", "extra_ca_file", "limits"}  # said before the options, or not in the URL
    options = {each.name for kind in (RelayConfig, RelayLimits) for each in fields(kind)} - own
    assert set(defaults) == options
