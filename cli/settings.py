"""What the operator's command reads besides the settings of the services: the ports of this machine."""

from pathlib import Path

from pydantic import Field

from shared.settings import SenderSettings

FIRST_SENDER_PORT = 8720


class LocalSettings(SenderSettings):
    """One block of ports, loopback unless told otherwise. The sender's settings are here too: they say how many
    processes `start` runs and how long a drain may take."""

    api_port: int = Field(8700, ge=1, le=65535, description="The API and the page, as `vashsender start` runs them.")
    broker_port: int = Field(8701, ge=1, le=65535, description="AMQP of the private broker.")
    broker_management_port: int = Field(8702, ge=1, le=65535, description="Management of the private broker.")
    mailbox_page_port: int = Field(8704, ge=1, le=65535, description="The page of the development mailbox.")
    broker_prometheus_port: int = Field(8705, ge=1, le=65535, description="Metrics of the private broker.")
    broker_dist_port: int = Field(8706, ge=1, le=65535, description="Erlang distribution of the private broker.")
    broker_epmd_port: int = Field(8707, ge=1, le=65535, description="Port mapper (epmd) of the private broker.")
    dispatcher_port: int = Field(8710, ge=1, le=65535, description="`/health` and `/metrics` of the dispatcher.")
    watchdog_port: int = Field(8711, ge=1, le=65535, description="`/health` and `/metrics` of the watchdog.")
    sender_port: int = Field(
        FIRST_SENDER_PORT, ge=1, le=65535, description="`/health` and `/metrics` of the first sender; the next follow."
    )
    log_dir: Path | None = Field(None, description="Where the log files are; `log` in `VASHSENDER_VAR_DIR` by default.")

    user: str = Field("", description="Started by root: the user as whom everything runs, the command too.")

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
        """Whether `start` runs a broker of its own: no AMQP URL is set."""
        return not self.amqp_url.get_secret_value()

    @property
    def api_url(self) -> str:
        """The API, as reached from this machine."""
        return f"http://{self.local_host}:{self.api_port}"
