"""Settings come from the environment, secrets from files, defaults from profiles. A wrong one gives one clear line."""

import stat
from pathlib import Path

import pytest

from cli.client import ApiClient
from cli.settings import LocalSettings, local_settings
from shared import env_file
from shared.env_file import ignored_file
from shared.errors import ConfigurationError
from shared.settings import (
    SETTINGS,
    ApiSettings,
    CommonSettings,
    DispatcherSettings,
    SenderSettings,
    WatchdogSettings,
    load,
)

SECRET = "x" * 32


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PROFILE", "ENVIRONMENT", "SECRET_KEY", "SMTP_CONNECTIONS", "DATABASE_URL", "AMQP_URL"):
        monkeypatch.delenv(f"VASHSENDER_{name}", raising=False)


@pytest.mark.parametrize(
    ("profile", "connections", "processes", "recycle"),
    [("low", 4, 1, 1000), ("medium", 8, 1, 500), ("high", 16, 2, 250)],
)
def test_profiles_have_the_values_of_the_old_guide(
    monkeypatch: pytest.MonkeyPatch, profile: str, connections: int, processes: int, recycle: int
) -> None:
    monkeypatch.setenv("VASHSENDER_PROFILE", profile)
    settings = load(SenderSettings)
    assert (settings.smtp_connections, settings.sender_processes, settings.recycle_after_batches) == (
        connections,
        processes,
        recycle,
    )
    assert settings.batches_in_hand == 2


def test_any_single_setting_overrides_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_PROFILE", "high")
    monkeypatch.setenv("VASHSENDER_SMTP_CONNECTIONS", "3")
    settings = load(SenderSettings)
    assert (settings.smtp_connections, settings.recycle_after_batches) == (3, 250)


def test_deadlines_default_to_those_of_the_old_guide() -> None:
    sender, dispatcher = load(SETTINGS["sender"]), load(SETTINGS["dispatcher"])
    assert isinstance(sender, SenderSettings)
    assert (sender.batch_soft_seconds, sender.batch_hard_seconds) == (480, 600)
    assert (sender.email_soft_seconds, sender.email_hard_seconds) == (240, 300)
    assert (dispatcher.model_dump()["turn_soft_seconds"], dispatcher.model_dump()["turn_hard_seconds"]) == (1500, 1800)


def test_a_secret_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "relays").write_text("smtp://user:pass@relay.test\n")
    monkeypatch.setenv("VASHSENDER_RELAYS_FILE", str(tmp_path / "relays"))
    assert load(SenderSettings).relay_urls == ("smtp://user:pass@relay.test",)
    monkeypatch.setenv("VASHSENDER_RELAYS_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match=r"VASHSENDER_RELAYS_FILE: cannot read .*nothing"):
        load(SenderSettings)


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        load(ApiSettings).http_port = 1  # type: ignore[misc]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_DATABASE_URL", "postgresql://user:hunter2@db/x")
    settings = load(ApiSettings)
    assert "hunter2" not in repr(settings)
    assert settings.ledger_url == "postgresql+asyncpg://user:hunter2@db/x"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SMTP_CONNECTIONS", "many", "VASHSENDER_SMTP_CONNECTIONS"),
        ("PROFILE", "huge", "VASHSENDER_PROFILE"),
        ("EMAIL_SOFT_SECONDS", "301", r"email_soft_seconds \(301\) exceeds email_hard_seconds \(300\)"),
        ("RENEW_SECONDS", "10", "renew_seconds must be at most half of lease_seconds"),
        ("PUBLIC_URL", "mail.example.com", "VASHSENDER_PUBLIC_URL: is not an http or https URL"),
        ("SECRET_KEY", "short", "secret_key has a key shorter than 32 characters"),
        ("SECRET_KEY", "x" * 32 + ",short", "secret_key has a key shorter than 32 characters"),
        ("UNSUBSCRIBE_KEY", "x" * 32 + ",short", "unsubscribe_key has a key shorter than 32 characters"),
    ],
)
def test_a_wrong_setting_gives_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"VASHSENDER_{name}", value)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(SenderSettings)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_used_link_is_remembered_for_its_whole_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would sign in a second time."""
    monkeypatch.setenv("VASHSENDER_IDEMPOTENCY_SECONDS", "899")
    with pytest.raises(ConfigurationError, match=r"idempotency_seconds \(899\) must be at least 900"):
        load(ApiSettings)


def test_production_refuses_unsafe_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_ENVIRONMENT", "production")
    with pytest.raises(ConfigurationError, match="secret_key must be set"):
        load(CommonSettings)
    monkeypatch.setenv("VASHSENDER_SECRET_KEY", SECRET)
    with pytest.raises(ConfigurationError, match="https"):
        load(CommonSettings)
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", "https://mail.example.com/")
    assert load(CommonSettings).public_url == "https://mail.example.com"


def test_the_health_port_of_the_api_follows_its_port() -> None:
    assert LocalSettings().api_health_port == 8712
    assert LocalSettings(api_port=9000).api_health_port == 9012
    assert LocalSettings(api_port=65_530).api_health_port == 65_518
    assert LocalSettings(api_port=9000, api_health_port=9001).api_health_port == 9001
    assert LocalSettings(base_port=9700).api_health_port == 9712


def test_each_service_needs_only_its_own_key_in_production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VASHSENDER_ENVIRONMENT", "production")
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", "https://mail.example.com/")
    monkeypatch.setenv("VASHSENDER_VAR_DIR", str(tmp_path))
    for settings_class in (DispatcherSettings, WatchdogSettings, LocalSettings):
        load(settings_class)
    with pytest.raises(ConfigurationError, match="unsubscribe_key or secret_key must be set"):
        load(SenderSettings)
    assert load(SenderSettings, unsubscribe_key=SECRET).unsubscribe_signing_key == SECRET.encode()
    with pytest.raises(ConfigurationError, match="secret_key must be set"):
        load(ApiSettings)
    with pytest.raises(ConfigurationError, match="VASHSENDER_SECRET_KEY is not set"):
        _ = load(LocalSettings).secret_keys
    assert not list(tmp_path.iterdir()), "no secret is made in production"


def test_the_development_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    settings = load(CommonSettings, var_dir=tmp_path / "var")
    first = settings.secret_keys
    path = tmp_path / "var" / "secrets" / "secret_key"
    assert load(CommonSettings, var_dir=tmp_path / "var").secret_keys == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first[0]) >= 32


def test_a_missing_broker_url_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="VASHSENDER_AMQP_URL is not set"):
        _ = load(CommonSettings, var_dir=tmp_path).broker_url


def test_a_wrong_broker_url_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VASHSENDER_AMQP_URL", "mq:5672")
    config = load(CommonSettings, var_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="VASHSENDER_AMQP_URL is no address"):
        _ = config.broker_url
    monkeypatch.setenv("VASHSENDER_AMQP_ADMIN_URL", "mq:5672")
    with pytest.raises(ConfigurationError, match="VASHSENDER_AMQP_ADMIN_URL is no address"):
        _ = config.broker_admin_url


@pytest.mark.parametrize(
    ("below", "reason"), [("file", "is not a folder"), ("file/deeper", "is not a folder"), ("x" * 300, "too long")]
)
def test_a_var_dir_that_cannot_be_a_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VASHSENDER_VAR_DIR", str(tmp_path / below))
    with pytest.raises(ConfigurationError, match=f"VASHSENDER_VAR_DIR: .*{reason}"):
        load(ApiSettings)


def test_one_base_port_moves_the_whole_block(monkeypatch: pytest.MonkeyPatch) -> None:
    before = local_settings().model_dump()
    monkeypatch.setenv("VASHSENDER_BASE_PORT", "9700")
    monkeypatch.setenv("VASHSENDER_MAILBOX_PORT", "2525")
    after = local_settings().model_dump()
    ports = [name for name in before if name.endswith("_port") and before[name]]
    assert len(ports) >= 12
    expected = {name: before[name] + 1000 for name in ports} | {"mailbox_port": 2525}
    assert {name: after[name] for name in ports} == expected
    assert after["public_url"] == "http://127.0.0.1:9700"


def test_links_follow_the_port_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_API_PORT", "8800")
    assert load(SenderSettings).public_url == "http://127.0.0.1:8800"
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", "https://mail.example.com")
    assert load(SenderSettings).public_url == "https://mail.example.com"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://почта.рф", "https://xn--80a1acny.xn--p1ai"),
        ("HTTPS://X.Example", "https://x.example"),
        ("https://x.example/", "https://x.example"),
        (" https://x.example/News/ ", "https://x.example/News"),
        ("https://x.example:8443/a", "https://x.example:8443/a"),
        ("https://x.example/новости", "https://x.example/%D0%BD%D0%BE%D0%B2%D0%BE%D1%81%D1%82%D0%B8"),
        ("http://127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("http://[::1]:8700", "http://[::1]:8700"),
        ("http://localhost", "http://localhost"),
        ("https://x.example/\n", "https://x.example"),
    ],
)
def test_the_public_url_is_put_into_the_form_that_links_need(
    monkeypatch: pytest.MonkeyPatch, given: str, url: str
) -> None:
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", given)
    assert load(SenderSettings).public_url == url


@pytest.mark.parametrize(
    "given",
    [
        "mail.example.com",
        "ftp://x.example",
        "https://",
        "https://x.example?list=1",
        "https://x.example/?",
        "https://x.example/#top",
        "https://user:secret@x.example",
        "https://x.example:99999",
        "https://x example",
        "https://-x-.example",
        "https://x..example",
        "https://x.example/" + "a" * 500,
        "https://[x.example",
    ],
)
def test_a_public_url_that_would_break_links_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("VASHSENDER_PUBLIC_URL", given)
    with pytest.raises(ConfigurationError, match="VASHSENDER_PUBLIC_URL") as caught:
        load(SenderSettings)
    assert "secret" not in str(caught.value)


def test_the_settings_file_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VASHSENDER_API_PORT=1\n")
    assert load(ApiSettings).api_port == 8700
    assert ignored_file() == tmp_path / ".env"
    named = tmp_path / "vashsender.env"
    named.write_text("VASHSENDER_API_PORT=8800\nVASHSENDER_URL=https://api.example.com\nVASHSENDER_API_KEY=vs_x\n")
    named.chmod(0o600)
    monkeypatch.setenv("VASHSENDER_ENV_FILE", str(named))
    assert ignored_file() is None
    assert load(ApiSettings).api_port == 8800
    assert ApiClient().url == "https://api.example.com"
    monkeypatch.setenv("VASHSENDER_API_PORT", "8801")
    assert load(ApiSettings).api_port == 8801


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("VASHSENDER_API_PORT=9000\n", []),
        ("\ufeffVASHSENDER_API_PORT=9000\r\n\r\n# note\r\nexport VASHSENDER_USER='a b'\r\n", []),
        ('VASHSENDER_API_PORT="9000\nVASHSENDER_USER=x\n', [1]),
        ("VASHSENDER_API_PORT 9000\n\nVASHSENDER_USER\n", [1, 3]),
    ],
)
def test_lines_of_the_settings_file_that_do_not_count_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, lines: list[int]
) -> None:
    path = tmp_path / "settings"
    path.write_bytes(content.encode())
    path.chmod(0o600)
    monkeypatch.setenv(env_file.VARIABLE, str(path))
    assert env_file.unread_lines() == lines


def test_a_settings_file_that_is_no_text_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_bytes("VASHSENDER_USER=x\nVASHSENDER_PROFILE=\xff".encode("latin-1"))
    path.chmod(0o600)
    monkeypatch.setenv(env_file.VARIABLE, str(path))
    with pytest.raises(ConfigurationError, match="line 2, is not UTF-8"):
        env_file.env_file()
    monkeypatch.setenv(env_file.VARIABLE, str(tmp_path))
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match="is not a file"):
        env_file.env_file()


def test_a_settings_file_that_others_can_change_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "vashsender.env"
    monkeypatch.setenv("VASHSENDER_ENV_FILE", str(named))
    with pytest.raises(ConfigurationError, match="there is no file"):
        load(ApiSettings)
    named.write_text("")
    for mode in (0o620, 0o602):
        named.chmod(mode)
        with pytest.raises(ConfigurationError, match="chmod go-w"):
            load(ApiSettings)
    named.chmod(0o640)
    load(ApiSettings)


def test_this_installations_key_goes_to_its_own_api_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "var" / "secrets").mkdir(parents=True)
    (tmp_path / "var" / "secrets" / "api_key").write_text("vs_own")
    ApiClient()
    ApiClient("http://localhost:8700/")
    with pytest.raises(ConfigurationError, match="not this installation's API"):
        ApiClient("https://api.example.com")
    ApiClient("https://api.example.com", "vs_theirs")
    monkeypatch.setenv("VASHSENDER_URL", "https://api.example.com")
    with pytest.raises(ConfigurationError, match="not this installation's API"):
        ApiClient()
