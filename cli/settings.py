"""The settings that only the operator's command reads: the ports and folders of this machine."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SecretStr, model_validator

from shared.settings import LMTP_PORT, SMTP_PORT, SenderSettings, load

FIRST_SENDER_PORT = 8720
API_HEALTH_OFFSET = 12
HIGHEST_PORT = 65_535


class LocalSettings(SenderSettings):
    """One block of ports, on loopback by default. Extends the sender's settings, because `start` needs the number of
    senders and the drain time."""

    signs_with: ClassVar[tuple[str, ...]] = ()

    broker_port: int = Field(8701, ge=1, le=65535, description="AMQP of the private broker.")
    broker_management_port: int = Field(8702, ge=1, le=65535, description="Management of the private broker.")
    mailbox_page_port: int = Field(8704, ge=1, le=65535, description="The page of the development mailbox.")
    broker_prometheus_port: int = Field(8705, ge=1, le=65535, description="Metrics of the private broker.")
    broker_dist_port: int = Field(8706, ge=1, le=65535, description="Erlang distribution of the private broker.")
    broker_epmd_port: int = Field(8707, ge=1, le=65535, description="Port mapper (epmd) of the private broker.")
    api_health_port: int = Field(
        8712,
        ge=1,
        le=65535,
        description="`/health` and `/metrics` of the api. If `VASHSENDER_API_PORT` is set: 12 above it.",
    )
    dispatcher_port: int = Field(8710, ge=1, le=65535, description="`/health` and `/metrics` of the dispatcher.")
    watchdog_port: int = Field(8711, ge=1, le=65535, description="`/health` and `/metrics` of the watchdog.")
    webhooks_port: int = Field(8713, ge=1, le=65535, description="`/health` and `/metrics` of the webhooks service.")
    feedback_port: int = Field(8714, ge=1, le=65535, description="`/health` and `/metrics` of feedback.")
    lmtp_port: int = LMTP_PORT
    smtp_port: int = SMTP_PORT
    sender_port: int = Field(
        FIRST_SENDER_PORT,
        ge=1,
        le=65535,
        description="`/health` and `/metrics` of the first sender; further senders take the ports after it.",
    )
    amqp_management_url: SecretStr = Field(
        SecretStr(""),
        description="RabbitMQ's management API, for `doctor` to look at the replicas of queues in a cluster.",
    )
    url: str = Field("", description="URL of the API that the command speaks to. Empty: this installation's.")
    api_key: SecretStr = Field(
        SecretStr(""), description="Key of that API. Empty: this installation's, in `secrets` of `VASHSENDER_VAR_DIR`."
    )
    log_dir: Path | None = Field(None, description="Folder of the log files. Empty: `log` in `VASHSENDER_VAR_DIR`.")

    user: str = Field("", description="If root starts it: the user that everything runs as, the command included.")

    @model_validator(mode="before")
    @classmethod
    def _health_follows_the_api(cls, values: dict[str, Any]) -> dict[str, Any]:
        """An installation of 0.1.0 whose ports were moved one by one must not meet another at the new port."""
        moved = str(values.get("api_port", ""))
        if "api_health_port" in values or not moved.isdecimal():
            return values
        above = int(moved) + API_HEALTH_OFFSET
        return {**values, "api_health_port": above if above <= HIGHEST_PORT else int(moved) - API_HEALTH_OFFSET}

    @property
    def home(self) -> Path:
        """`var_dir`, absolute."""
        return self.var_dir.absolute()

    @property
    def logs(self) -> Path:
        return (self.log_dir or self.home / "log").absolute()

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def secrets_dir(self) -> Path:
        return self.home / "secrets"

    @property
    def private_broker(self) -> bool:
        """Whether `start` runs a private broker: it does if no AMQP URL is set."""
        return not self.amqp_url.get_secret_value()

    @property
    def api_url(self) -> str:
        """The API, as reached from this machine."""
        return f"http://{self.local_host}:{self.api_port}"


def local_settings() -> LocalSettings:
    """The settings of this machine. Raises ConfigurationError."""
    return load(LocalSettings)
