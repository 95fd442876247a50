"""Relays and limits with the defaults of the settings, independent of the environment."""

from dataclasses import replace
from typing import Any

from services.sender.smtp import config
from services.sender.smtp.config import EngineConfig
from shared.relays.config import RelayConfig
from shared.relays.url import parse_relay
from shared.settings import SenderSettings

SETTINGS = SenderSettings.model_construct()


def relay_config(port: int, name: str = "relay", **changes: Any) -> RelayConfig:
    """A relay on this machine, in the clear."""
    return replace(parse_relay(f"smtp://127.0.0.1:{port}?tls=none&name={name}", SETTINGS), **changes)


def engine_config(**changes: Any) -> EngineConfig:
    """The limits of an engine."""
    return replace(config.engine_config(SETTINGS), **changes)
