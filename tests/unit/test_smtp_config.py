"""Relays as operators write them: one URL each."""

import pytest

from services.sender.smtp.config import EngineConfig, RelayConfig, RelayUrlError, Tls, parse_relay


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
    relay = parse_relay(url)
    assert (relay.host, relay.name, relay.tls, relay.port) == ("relay.example.com", "relay.example.com", tls, port)


def test_a_user_and_a_password_given_apart() -> None:
    relay = parse_relay("smtp://mail%40example.com@relay.example.com", password="p@ss/word")
    assert (relay.username, relay.password) == ("mail@example.com", "p@ss/word")


def test_a_password_in_the_url() -> None:
    assert parse_relay("smtps://me:p%40ss@relay.example.com").password == "p@ss"


def test_a_password_without_a_user_is_not_used() -> None:
    relay = parse_relay("smtp://relay.example.com", password="for another relay")
    assert (relay.username, relay.password) == (None, None)


def test_every_option() -> None:
    relay = parse_relay(
        "smtp://[::1]:26?tls=none&verify=no&ca_file=/ca.pem&helo=me.example&name=mx&connections=3&spare_connections=0"
        "&max_emails_per_connection=50&idle_seconds=5&max_age_seconds=9"
    )
    assert (relay.host, relay.port, relay.name, relay.helo) == ("::1", 26, "mx", "me.example")
    assert (relay.verify, str(relay.ca_file)) == (False, "/ca.pem")
    assert (relay.connections, relay.spare_connections, relay.max_emails_per_connection) == (3, 0, 50)
    assert (relay.idle_seconds, relay.max_age_seconds) == (5, 9)


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
        ("smtp://relay?connections=0", "whole number from 1 up"),
        ("smtp://relay?connections=many", "whole number"),
        ("smtp://relay?conections=3", "unknown option conections"),
        ("smtp://me@relay", "user 'me' has no password"),
        ("smtp://me:secret@relay?tls=none", "never travels in the clear"),
    ],
)
def test_what_is_wrong_is_said(url: str, words: str) -> None:
    with pytest.raises(RelayUrlError, match=words) as raised:
        parse_relay(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_to_this_machine_a_password_may_go_in_the_clear(host: str) -> None:
    assert parse_relay(f"smtp://me:secret@{host}?tls=none").password == "secret"


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(parse_relay("smtps://me:secret@relay.example.com"))


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RelayConfig("relay", "localhost", connections=0)
    with pytest.raises(ValueError, match="come together"):
        RelayConfig("relay", "localhost", username="me")
    with pytest.raises(ValueError, match="email_soft_seconds"):
        EngineConfig(email_soft_seconds=10, email_hard_seconds=5)
