"""The notifier's socket and its watchdog interval. tests/integration/test_sd_notify.py tests its messages."""

import os

import pytest

from shared.notify import Notifier
from shared.settings import CommonSettings, SenderSettings, load
from shared.ticks import Ticks


def test_without_systemd_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.alive()
    assert not notifier.is_heard
    assert notifier.watchdog_seconds == 0


def test_a_watchdog_for_another_process_is_ignored() -> None:
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 30
    assert Notifier({"WATCHDOG_USEC": "30000000"}).watchdog_seconds == 30
    assert Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_seconds == 0


def test_a_missing_socket_does_not_end_the_process(tmp_path: object) -> None:
    Notifier({"NOTIFY_SOCKET": f"{tmp_path}/gone"}).ready()
    Notifier({"NOTIFY_SOCKET": "@vashsender/nobody"}).alive()


def test_a_tick_is_watched_only_while_it_works() -> None:
    ticks = Ticks("looks")
    assert ticks.seconds == 0
    with ticks:
        assert ticks.seconds > 0
    assert ticks.seconds == 0
    with pytest.raises(OSError, match="away"), ticks:
        raise OSError("away")
    assert ticks.seconds == 0


@pytest.mark.parametrize(
    ("slot", "number"), [("", 1), ("sender-1", 1), ("sender-12", 12), ("sender-0", 1), ("left", 1)]
)
def test_senders_of_one_machine_have_different_ports(slot: str, number: int) -> None:
    assert load(SenderSettings, slot=slot).slot_number == number


def test_an_empty_log_file_setting_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VASHSENDER_LOG_FILE", "")
    assert load(CommonSettings).log_file is None
