"""deploy/systemd, checked as text, and by systemd if it is installed."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local.programs import SERVICES
from services.sender.worker import FLUSH_SECONDS
from shared.settings import SenderSettings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
HIGHEST_EXPOSURE = 2.0


def lines(unit: str) -> Iterator[tuple[str, str]]:
    for line in (FOLDER / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value


def only(unit: str, name: str) -> str:
    [value] = [value for each, value in lines(unit) if each == name]
    return value


def made() -> set[str]:
    """The secrets for which the installer creates files: those of `vashsender access new`, and relays."""
    text = (FOLDER / "install").read_text()
    alone = re.search(r"^for secret in (.*); do$", text, re.MULTILINE)
    of_services = re.search(r"^for service in (.*); do$", text, re.MULTILINE)
    assert alone is not None
    assert of_services is not None
    addresses = {f"{name}_{what}" for name in of_services.group(1).split() for what in ("database_url", "amqp_url")}
    return {"secret_key", "unsubscribe_key", *alone.group(1).split(), *addresses}


def test_there_is_a_unit_for_every_service() -> None:
    assert {f"vashsender-{name}.service" for name in SERVICES} | {"vashsender-sender@.service"} <= set(UNITS)


def test_a_sender_has_time_to_drain() -> None:
    drain = SenderSettings.model_fields["drain_seconds"].default
    assert int(only("vashsender-sender@.service", "TimeoutStopSec")) > drain + FLUSH_SECONDS


@pytest.mark.parametrize("unit", UNITS)
def test_every_credential_is_read_and_has_a_file(unit: str) -> None:
    handed = {value.partition(":")[0] for name, value in lines(unit) if name == "LoadCredential"}
    files = {Path(value.partition(":")[2]) for name, value in lines(unit) if name == "LoadCredential"}
    read = {
        value.partition("=%d/")[2]: value.partition("=")[0]
        for name, value in lines(unit)
        if name == "Environment" and "=%d/" in value
    }
    assert {path.parent for path in files} <= {Path("/etc/vashsender/secrets")}
    assert {path.name for path in files} <= made()
    assert read == {name: f"VASHSENDER_{name.upper()}_FILE" for name in handed}


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit not in ("vashsender-prepare.service",)])
def test_units_restart_unless_a_setting_is_wrong(unit: str) -> None:
    assert only(unit, "Type") == "notify"
    assert only(unit, "Restart") == "always"
    assert only(unit, "RestartPreventExitStatus") == "78"


def test_every_service_gives_signs_of_life() -> None:
    for unit in (*(f"vashsender-{name}.service" for name in SERVICES), "vashsender-sender@.service"):
        assert int(only(unit, "WatchdogSec")) == 30


def test_systemd_rates_their_exposure_as_low() -> None:
    analyze = shutil.which("systemd-analyze")
    for unit in UNITS if analyze else ():
        told = subprocess.run(
            [analyze or "", "security", "--offline=true", FOLDER / unit], capture_output=True, text=True, check=True
        )
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told.stdout)
        assert exposure is not None, told.stderr
        assert float(exposure.group(1)) <= HIGHEST_EXPOSURE, told.stdout
