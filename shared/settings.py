"""The settings of every service: environment variables `VASHSENDER_*`, a settings file, or a file for a secret
(`*_FILE`).

One frozen class per service, with units in the names. docs/settings.md lists every setting; a test keeps it complete.
"""

import os
import re
import socket
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared import tls
from shared.addresses import AddressError, parse_domain
from shared.env_file import env_file, text_named_by
from shared.errors import ConfigurationError
from shared.providers import parse_providers
from shared.relay_groups import RelayGroups, parse_groups
from shared.retries import parse_schedule
from shared.secret_files import private_folder, secret_in
from shared.signing import Use, derived_key

PREFIX = "VASHSENDER_"
BASE_PORT = 8700
MAX_PUBLIC_URL_CHARACTERS = 500
SECRET_KEY_OCTETS = 48
LEAST_KEY_CHARACTERS = 32
SIGN_IN_LINK_SECONDS = 900
PROFILES: Mapping[str, Mapping[str, int]] = {
    "low": {"smtp_connections": 4, "sender_processes": 1, "recycle_after_batches": 1000},
    "medium": {"smtp_connections": 8, "sender_processes": 1, "recycle_after_batches": 500},
    "high": {"smtp_connections": 16, "sender_processes": 2, "recycle_after_batches": 250},
}


_PRINTABLE = re.compile(r"[^\x00-\x20\x7f-\xa0\u2028\u2029]+")
_IP_HOST = re.compile(r"[0-9.]+|[0-9a-f:.]*:[0-9a-f:.]*")


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `VASHSENDER_X_FILE` for every secret setting `x`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if "SecretStr" not in str(field.annotation):
            return None, field_name, False
        return text_named_by(f"{PREFIX}{field_name.upper()}_FILE"), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


LMTP_PORT: Any = Field(
    0, ge=0, le=65535, description="LMTP, for a mail server of yours that hands the bounce domains on. 0: none."
)
SMTP_PORT: Any = Field(0, ge=0, le=65535, description="SMTP, for reports that come from the internet. 0: none.")


class CommonSettings(BaseSettings):
    """Read by every service and by the command."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    #: Names of secrets of which a process needs one in production; empty if it signs nothing.
    signs_with: ClassVar[tuple[str, ...]] = ("secret_key",)

    environment: Literal["development", "production"] = Field(
        "development", description="In `production`, a process with unsafe settings refuses to start."
    )
    profile: Literal["low", "medium", "high"] = Field(
        "medium", description="The load this installation is sized for; sets three defaults."
    )
    var_dir: Path = Field(Path("var"), description="Folder for everything this installation writes on this machine.")
    log_format: Literal["json", "text"] = Field("json", description="`json` for machines, `text` for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_file: Path | None = Field(
        None, description="File for a service's log, reopened on SIGHUP. Empty: stdout and stderr."
    )
    instance: str = Field(
        "", max_length=200, description="Name of this process in logs and metrics. Empty: service, host and pid."
    )
    database_url: SecretStr = Field(
        SecretStr(""), description="The ledger. Empty: SQLite in `VASHSENDER_VAR_DIR`; `postgresql://...`: PostgreSQL."
    )
    database_pool_size: int = Field(
        8,
        ge=1,
        description="Most connections in a process's pool. On PostgreSQL a process has one more, a sender two.",
    )
    transaction_seconds: float = Field(
        60.0, gt=0, description="Seconds after which a PostgreSQL transaction is given up and tried again."
    )
    amqp_url: SecretStr = Field(
        SecretStr(""),
        description="The broker, with a comma between the hosts of a cluster. Empty: this machine's private broker.",
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authority that signed the certificates of broker, database and relays.",
    )
    relay_groups: str = Field(
        "",
        description="Groups of relays, separated by spaces, each with the domains of From that use it:"
        " `bulk=news.example.com,promo.example.com vip`. See [relays](relays.md#groups).",
    )
    dns_servers: str = Field(
        "",
        description="DNS servers for checks of domains, as `ADDRESS` or `ADDRESS:PORT`, separated by commas. Empty: the"
        " system's.",
    )
    http_host: str = Field("127.0.0.1", description="Address that the HTTP port listens on.")
    http_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="The HTTP port. 0: the service's default port; `sender-2` takes the one after `sender-1`.",
    )
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="A separate port for `/health` and `/metrics`. 0: they are on the HTTP port.",
    )
    http_connections: int = Field(
        500, ge=1, description="Most connections to the HTTP port. More are answered with 503."
    )
    http_connections_per_address: int = Field(
        250, ge=1, description="Most connections to the HTTP port from one address; a proxy is one address."
    )
    http_header_seconds: float = Field(
        10.0, gt=0, description="Seconds that the headers of a request may take to arrive."
    )
    http_write_seconds: float = Field(
        30.0, gt=0, description="Seconds after which a client that does not read its answer is disconnected."
    )
    base_port: int = Field(
        BASE_PORT,
        ge=1,
        le=65_000,
        description="First port of this installation's block. The defaults of all other ports follow it.",
    )
    api_port: int = Field(BASE_PORT, ge=1, le=65535, description="The API and the page on this machine.")
    clock_seconds: float = Field(1.0, gt=0, description="Seconds between two ticks of a service's clock.")
    publish_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest wait in seconds for the broker to confirm an event."
    )
    nameless_events: Literal["accept", "refuse"] = Field(
        "accept",
        description="Whether events that name no account are accepted, where each service has its own. Release 0.1.0"
        " sends such events; after the update, `refuse` is safer.",
    )
    hung_seconds: float = Field(
        300.0,
        gt=0,
        description="Seconds after which a tick counts as hung if the database works; see docs/systemd.md.",
    )
    instance_lost_seconds: float = Field(
        20.0, gt=0, description="Seconds without a heartbeat after which a sender no longer counts as alive."
    )
    retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="Days after the end of a campaign for which its recipients and results are kept, unless its project"
        " says otherwise; 0: for ever. See `docs/forgetting.md`.",
    )
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="The secret that all signing keys are derived from, for the api and the command. Older ones follow"
        " after a comma. Empty in development: generated.",
    )
    public_url: str = Field(
        "http://127.0.0.1:8700", description="URL at which recipients reach the API: the base of unsubscribe links."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        dotenv = DotEnvSettingsSource(settings_cls, env_file=env_file())
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_follow(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Defaults that follow another setting: the profile's, the block of ports, the URL of the API's port."""
        profile = PROFILES.get(str(values.get("profile", cls.model_fields["profile"].default)), {})
        defaults: dict[str, Any] = {name: value for name, value in profile.items() if name in cls.model_fields}
        base = str(values.get("base_port", BASE_PORT))
        if base.isdecimal():
            defaults |= {
                name: int(base) + field.default - BASE_PORT
                for name, field in cls.model_fields.items()
                if name.endswith("_port") and name != "base_port" and field.default
            }
        merged = {**defaults, **values}
        if "public_url" not in values and "api_port" in merged:
            merged["public_url"] = f"http://127.0.0.1:{merged['api_port']}"
        return merged

    @field_validator("var_dir")
    @classmethod
    def _can_be_a_folder(cls, path: Path) -> Path:
        try:
            existing = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        except OSError as error:  # a name too long, or a folder that may not be entered
            raise ValueError(f"cannot use {str(path)[:200]}: {error.strerror}") from None
        if not existing.is_dir():
            raise ValueError(f"{existing} is not a folder")
        return path

    @field_validator("ca_file")
    @classmethod
    def _ca_file_is_usable(cls, value: Path | None) -> Path | None:
        try:
            tls.trusting(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("instance", "slot", check_fields=False)
    @classmethod
    def _names_are_printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("contains control characters")
        return value

    @field_validator("log_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("public_url")
    @classmethod
    def _public_url_is_a_url(cls, value: str) -> str:
        """In the form used in links: lower-case scheme, an ASCII host (IDNA), no slash at the end."""
        example = "write it as https://mail.example.com, with a port or a path if need be"
        if len(value) > MAX_PUBLIC_URL_CHARACTERS or not _PRINTABLE.fullmatch(value.strip()):
            raise ValueError(f"is not a URL of at most {MAX_PUBLIC_URL_CHARACTERS} characters; {example}")
        try:
            parts = urlsplit(value.strip())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"is not a URL: {error}; {example}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"is not an http or https URL; {example}")
        if parts.username is not None or "?" in value or "#" in value:
            raise ValueError(f"holds a user, a query or a fragment, which would break every link; {example}")
        host = parts.hostname if _IP_HOST.fullmatch(parts.hostname) else _ascii_host(parts.hostname)
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{path}"

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> Self:
        if self.environment == "production":
            if self.signs_with and not any(_keys(getattr(self, name)) for name in self.signs_with):
                names = " or ".join(self.signs_with)
                raise ValueError(f"{names} must be set in production: 32 random characters, best in a file")
            if not self.public_url.startswith("https://"):
                raise ValueError("public_url must be https in production (RFC 8058, section 3)")
        for name in {"secret_key", "unsubscribe_key"} & type(self).model_fields.keys():
            if any(len(key) < LEAST_KEY_CHARACTERS for key in _keys(getattr(self, name))):
                raise ValueError(f"{name} has a key shorter than {LEAST_KEY_CHARACTERS} characters: make a longer one")
        return self

    @property
    def ledger_url(self) -> str:
        """The database URL with its driver: asyncpg or aiosqlite."""
        url = self.database_url.get_secret_value()
        if not url:
            return f"sqlite+aiosqlite:///{(self.var_dir / 'vashsender.db').absolute()}"
        scheme, separator, rest = url.partition("://")
        drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
        return tls.database_address(f"{drivers.get(scheme, scheme)}{separator}{rest}", self.ca_file)

    @property
    def broker_url(self) -> str:
        """The AMQP URL for services. A private broker leaves its URL in `var/secrets/amqp_url`."""
        return tls.broker_address(self.amqp_url.get_secret_value() or self._left_in_file("amqp_url"), self.ca_file)

    @property
    def broker_admin_url(self) -> str:
        """The AMQP URL of the account that may configure: only for `topology declare`."""
        setting = f"{PREFIX}AMQP_ADMIN_URL"
        if given := os.environ.get(setting) or text_named_by(f"{setting}_FILE"):
            return tls.broker_address(given, self.ca_file, setting)
        given = self.amqp_url.get_secret_value() or self._left_in_file("amqp_admin_url")
        return tls.broker_address(given, self.ca_file)

    @property
    def local_host(self) -> str:
        """Where this machine reaches its own ports, in the form used in URLs."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http_host, self.http_host)
        return f"[{host}]" if ":" in host else host

    @property
    def slot_number(self) -> int:
        """Number of this process among its kind on this machine, from 1. The HTTP ports follow each other."""
        return 1

    @cached_property
    def groups(self) -> RelayGroups:
        """The groups of relays. Raises ConfigurationError."""
        return parse_groups(self.relay_groups)

    @cached_property
    def secret_keys(self) -> tuple[bytes, ...]:
        """The secrets that signing keys are derived from, newest first. Raises ConfigurationError if none is set in
        production."""
        if keys := _keys(self.secret_key):
            return keys
        if self.environment == "production":
            raise ConfigurationError(f"{PREFIX}SECRET_KEY is not set. Name its file in {PREFIX}SECRET_KEY_FILE.")
        return _keys(SecretStr(self._made_secret()))

    def signing_keys(self, use: Use) -> tuple[bytes, ...]:
        """The keys of one use, newest first: the first signs, all verify. Links signed by release 0.1.0, with the
        secrets themselves, stay valid."""
        derived = tuple(derived_key(secret, use) for secret in self.secret_keys)
        return (*derived, *self.secret_keys) if use is Use.UNSUBSCRIBE else derived

    @cached_property  # every request needs them
    def hash_roots(self) -> tuple[bytes, ...]:
        """What opens the secret of the hashes of erased addresses: see shared.ledger.hashed."""
        return tuple(derived_key(key, Use.HASHED) for key in self._unsubscribe_keys)

    @property
    def _unsubscribe_keys(self) -> tuple[bytes, ...]:
        return self.signing_keys(Use.UNSUBSCRIBE)

    def instance_name(self, service: str) -> str:
        return self.instance or f"{service}-{socket.gethostname()}-{os.getpid()}"

    def _left_in_file(self, name: str) -> str:
        path = self.var_dir / "secrets" / name
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            raise ConfigurationError(
                f"{PREFIX}AMQP_URL is not set and no private broker has left its address in {path}. "
                "Set it, or run `vashsender start`, which starts a private broker."
            ) from None

    def _made_secret(self) -> str:
        """The development secret, made by the first process that needs it."""
        path = self.var_dir / "secrets" / "secret_key"
        private_folder(path.parent)
        return secret_in(path, SECRET_KEY_OCTETS).strip()


class ApiSettings(CommonSettings):
    """The HTTP API and the page."""

    max_content_bytes: int = Field(10_000_000, ge=1, description="Largest request body, except for imports.")
    max_import_bytes: int = Field(2_000_000_000, ge=1, description="Largest import.")
    upload_space_bytes: int = Field(
        2_000_000_000,
        ge=1,
        description="Space for temporary files that uploads to the page may take at one time, all together.",
    )
    import_chunk_rows: int = Field(5000, ge=1, description="Recipients that an import stores per transaction.")
    import_timeout_seconds: float = Field(900.0, gt=0, description="Seconds without data after which an import fails.")
    deliver_within_seconds: float = Field(
        259_200.0, gt=0, description="Seconds from `send` to `deliver_by`, if a campaign sets none (72 hours)."
    )
    idempotency_seconds: float = Field(
        86_400.0, gt=0, description="Seconds for which an Idempotency-Key is remembered."
    )
    http_body_seconds: float = Field(
        30.0,
        gt=0,
        description="Seconds that a body may take, and one more for each KB of it; not for imports.",
    )
    allowed_hosts: str = Field(
        "",
        description="Further host names at which people reach the page, separated by commas. The host of"
        " `VASHSENDER_PUBLIC_URL` and this machine's own names are always allowed.",
    )
    tests_per_hour: int = Field(
        60, ge=0, description="Tests that a project may send in an hour, unless it sets its own limit."
    )
    open_imports: int = Field(
        20, ge=0, description="Imports that a project may have open at once, unless it sets its own limit."
    )
    open_streams: int = Field(
        100,
        ge=0,
        description="Event streams that a project may hold open on one API process, unless it sets its own limit.",
    )
    webhooks_per_project: int = Field(20, ge=0, description="Webhooks that a project may have.")
    retention_steady_seconds: float = Field(
        86_400.0,
        ge=0,
        description="Seconds for which the database's clock must have run without a step before retention deletes.",
    )
    page_session_seconds: float = Field(
        43_200.0, ge=60, description="Seconds for which a person stays signed in to the page."
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, value: str) -> str:
        hosts = [host.strip() for host in value.split(",") if host.strip()]
        return ",".join(host.lower() if _IP_HOST.fullmatch(host.lower()) else _ascii_host(host) for host in hosts)

    @model_validator(mode="after")
    def _remembers_longer_than_tokens_live(self) -> Self:
        """Used links are remembered as idempotency keys."""
        if self.idempotency_seconds < SIGN_IN_LINK_SECONDS:
            raise ValueError(
                f"idempotency_seconds ({self.idempotency_seconds:g}) must be at least {SIGN_IN_LINK_SECONDS}: a used "
                "sign-in link would work again"
            )
        return self


class DispatcherSettings(CommonSettings):
    """Splits, releases and closes campaigns."""

    signs_with: ClassVar[tuple[str, ...]] = ()

    batch_size: int = Field(
        500,
        ge=1,
        le=10_000,
        description="Recipients per batch; up to four times as many if they take half a second.",
    )
    window_per_slot: int = Field(
        2, ge=1, description="Batches that may be released or sending at once, per place of the live senders."
    )
    window_floor: int = Field(2, ge=1, description="Batches that may be released if no sender is known to be alive.")
    limited_batch_seconds: float = Field(
        30.0, gt=0, description="Seconds of sending that one batch of a campaign with a rate limit holds."
    )
    turn_soft_seconds: float = Field(
        1500.0, gt=0, description="Seconds after which a job commits what it has done and continues later."
    )
    turn_hard_seconds: float = Field(
        1800.0, gt=0, description="Seconds after which a job is abandoned; a new one continues it."
    )
    events_kept_seconds: float = Field(
        604_800.0,
        ge=60,
        description="Seconds for which the events of projects are kept, to be read or replayed (7 days).",
    )
    list_breaker_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of addresses without a mailbox, of at least 1,000 results, above which a campaign is paused;"
        " 1: never.",
    )


class SenderSettings(CommonSettings):
    """Delivers batches to relays."""

    signs_with: ClassVar[tuple[str, ...]] = ("unsubscribe_key", "secret_key")

    unsubscribe_key: SecretStr = Field(
        SecretStr(""),
        description="Signs unsubscribe links; `vashsender access new` derives it. Empty: `VASHSENDER_SECRET_KEY` signs"
        " them as in release 0.1.0.",
    )

    relays: SecretStr = Field(
        SecretStr(""),
        description="Relays in order of preference, separated by spaces or commas: `smtp://user@host:587`, `smtps://`.",
    )
    slot: str = Field(
        "", max_length=100, description="Slot name given by a supervisor, such as `sender-1`; guarded by a file lock."
    )
    smtp_connections: int = Field(8, ge=1, le=1000, description="Connections per relay.")
    sender_processes: int = Field(1, ge=1, le=100, description="Sender processes that `vashsender start` runs.")
    mailbox_port: int = Field(8703, ge=1, le=65535, description="SMTP of the development mailbox.")
    batches_in_hand: int = Field(
        2, ge=1, le=100, description="Batches that a sender may hold at once; also its prefetch."
    )
    recycle_after_batches: int = Field(500, ge=0, description="Batches after which a sender restarts itself; 0: never.")
    max_message_bytes: int = Field(
        10_000_000, ge=1000, description="Largest message with a recipient's values in it, without attachments."
    )
    mail_memory_bytes: int = Field(
        32_000_000,
        ge=1_000_000,
        description="Bytes for the content of campaigns and for emails in flight. A sender needs 170 MB besides.",
    )
    slice_size: int = Field(500, ge=1, le=5000, description="Recipients read from the ledger at once.")
    unrecorded_limit: int = Field(
        64, ge=1, le=10_000, description="Unrecorded results at which a sender starts no more emails."
    )
    lease_seconds: float = Field(15.0, gt=0, description="Seconds for which a lease lasts without renewal.")
    renew_seconds: float = Field(3.0, gt=0, description="Longest time in seconds between two renewals of a lease.")
    look_seconds: float = Field(
        0.5, gt=0, description="Seconds between two looks for a pause, cancellation or rescue of held batches."
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="Seconds between two heartbeats.")
    ticket_patience_seconds: float = Field(
        2.0, ge=0, description="Seconds after which an idle sender claims a released batch without its ticket."
    )
    drain_seconds: float = Field(30.0, ge=0, description="Seconds that emails in flight have to finish after SIGTERM.")
    batch_soft_seconds: float = Field(480.0, gt=0, description="Seconds after which a batch starts no more emails.")
    batch_hard_seconds: float = Field(
        600.0, gt=0, description="Seconds after which a batch's emails in flight are aborted."
    )
    email_soft_seconds: float = Field(
        240.0, gt=0, description="Seconds after which an email starts no further step and tries no other relay."
    )
    email_hard_seconds: float = Field(300.0, gt=0, description="Seconds after which an email's connection is aborted.")
    smtp_emails_per_connection: int = Field(1000, ge=1, description="Emails after which a connection is replaced.")
    smtp_idle_seconds: float = Field(60.0, gt=0, description="Seconds after which an idle connection is closed.")
    smtp_age_seconds: float = Field(3600.0, gt=0, description="Seconds after which a connection is replaced.")
    smtp_cleanup_seconds: float = Field(
        600.0, gt=0, description="Seconds between two searches for idle and old connections."
    )
    smtp_connect_seconds: float = Field(
        30.0, gt=0, description="Longest wait in seconds for a connection, its TLS and its banner."
    )
    smtp_reply_seconds: float = Field(
        120.0, gt=0, description="Longest wait in seconds for a reply before the final dot."
    )
    relay_rest_seconds: float = Field(
        5.0, gt=0, description="Seconds of a failed relay's first rest; each further rest is twice as long."
    )
    relay_rest_max_seconds: float = Field(300.0, gt=0, description="Longest rest of a relay in seconds.")
    retry_schedule: str = Field(
        "1m,5m,15m,30m,1h,2h+",
        description="Waits before the retries of a campaign that sets none, until `deliver_by`; `+` repeats the last."
        " `1m,1m,1m`: three retries, as in the Celery system.",
    )
    retry_jitter: float = Field(
        0.1, ge=0, le=1, description="Share of its delay by which a retry may come later; differs from batch to batch."
    )
    providers: str = Field(
        "",
        description="Domains of recipients and who runs their mailboxes, separated by spaces: `example.edu=gmail`.",
    )
    provider_limits: str = Field(
        "",
        description="Emails in flight and per second by provider, over each relay and of all senders together,"
        " separated by spaces: `gmail=20:500`, `gmail=20`, `gmail=:500`, `gmail=off`. `table` takes the numbers of our"
        " table, `*=10` is for domains that the table does not name. See `docs/providers.md`.",
    )
    provider_hold_seconds: float = Field(
        300.0, gt=0, description="Seconds an email waits after its provider has refused us."
    )
    provider_rest_seconds: float = Field(
        60.0,
        gt=0,
        description="Seconds of the first rest of a provider that refused three recipients within a minute; doubles.",
    )
    dkim_dir: Path | None = Field(
        None, description="Folder of DKIM keys, one file `<domain>.<selector>.pem` each. Empty: no signatures."
    )

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        for what in ("batch", "email"):
            soft, hard = getattr(self, f"{what}_soft_seconds"), getattr(self, f"{what}_hard_seconds")
            if soft > hard:
                raise ValueError(f"{what}_soft_seconds ({soft:g}) exceeds {what}_hard_seconds ({hard:g})")
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError("renew_seconds must be at most half of lease_seconds")
        parse_schedule(self.retry_schedule)
        parse_providers(self.providers, self.provider_limits)
        _ = self.groups
        return self

    @property
    def slot_number(self) -> int:
        """1 for `sender-1`, and for a slot name without a number."""
        number = self.slot.rpartition("-")[2]
        return int(number) if number.isdecimal() and int(number) else 1

    @property
    def _unsubscribe_keys(self) -> tuple[bytes, ...]:
        return _keys(self.unsubscribe_key) or self.signing_keys(Use.UNSUBSCRIBE)

    @property
    def unsubscribe_signing_key(self) -> bytes:
        """The key that signs unsubscribe links."""
        return (_keys(self.unsubscribe_key) or self.secret_keys)[0]

    @property
    def relay_urls(self) -> tuple[str, ...]:
        return tuple(self.relays.get_secret_value().replace(",", " ").split())


class WatchdogSettings(CommonSettings):
    """Rescues batches and repairs the ledger."""

    signs_with: ClassVar[tuple[str, ...]] = ()

    sweep_seconds: float = Field(300.0, gt=0, description="Seconds from one pass of the sweep to the next, or more.")
    stalled_seconds: float = Field(
        600.0,
        gt=0,
        description="Seconds without a result after which a batch is rescued although its lease is renewed.",
    )
    batch_hard_seconds: float = Field(
        600.0, gt=0, description="Seconds after which a batch's emails in flight are aborted."
    )
    ticket_lost_seconds: float = Field(
        60.0, gt=0, description="Seconds after which an unclaimed batch is released again."
    )
    timeline_entries: int = Field(1000, ge=10, description="Newest entries that a campaign's timeline keeps.")


class WebhooksSettings(CommonSettings):
    """Tells the endpoints of projects what happened."""

    signs_with: ClassVar[tuple[str, ...]] = ()

    webhook_networks: str = Field(
        "",
        description="Networks that are not public and to which webhooks may go, separated by commas: `10.1.0.0/16`."
        " Empty: none.",
    )
    webhook_post_seconds: float = Field(
        15.0, gt=0, le=45, description="Seconds that an endpoint has for an answer, from the lookup of its name on."
    )
    webhook_give_up_seconds: float = Field(
        259_200.0, gt=0, description="Seconds of failures after which an endpoint is disabled (three days)."
    )
    webhook_deliveries: int = Field(
        200, ge=1, le=900, description="Endpoints to which one process delivers at the same time."
    )

    publish_events: bool = Field(
        False,
        description="Publish the events of projects to the exchange `vashsender.events`. Switched on again, it goes on"
        " where it was, as long as events are kept.",
    )

    @field_validator("webhook_networks")
    @classmethod
    def _networks_are_networks(cls, value: str) -> str:
        for part in value.replace(",", " ").split():
            ip_network(part)  # its error says what is wrong
        return value


class FeedbackSettings(CommonSettings):
    """Takes in bounces, complaints and unsubscribes."""

    signs_with: ClassVar[tuple[str, ...]] = ("unsubscribe_key", "secret_key")

    unsubscribe_key: SecretStr = Field(
        SecretStr(""),
        description="Verifies the tokens of emails and unsubscribe links; older ones follow after a comma. Empty:"
        " `VASHSENDER_SECRET_KEY` does.",
    )
    lmtp_port: int = LMTP_PORT
    smtp_port: int = SMTP_PORT
    feedback_host: str = Field("127.0.0.1", description="Address that both listen on.")
    feedback_hostname: str = Field("", max_length=255, description="Our name in the greeting. Empty: this machine's.")
    feedback_max_bytes: int = Field(
        20_000_000, ge=10_000, description="Largest mail that is taken. Of a long one the first 1,000,000 bytes count."
    )
    feedback_connections: int = Field(50, ge=1, description="Most connections at once, over both ports.")
    feedback_connections_per_address: int = Field(
        50, ge=1, description="Most of them from one address; a mail server of yours is one address."
    )
    feedback_mails_per_second: float = Field(
        1000.0, gt=0, description="Mails a second, over all connections. What is over is asked to come again later."
    )

    @property
    def token_keys(self) -> tuple[bytes, ...]:
        """The keys that may have made a token, newest first."""
        return _keys(self.unsubscribe_key) or self.signing_keys(Use.UNSUBSCRIBE)


SETTINGS: Mapping[str, type[CommonSettings]] = {
    "api": ApiSettings,
    "dispatcher": DispatcherSettings,
    "sender": SenderSettings,
    "feedback": FeedbackSettings,
    "watchdog": WatchdogSettings,
    "webhooks": WebhooksSettings,
}

S = TypeVar("S", bound=CommonSettings)


def load(settings_class: type[S], **values: Any) -> S:
    """Reads the settings of one service. Raises ConfigurationError, which names every wrong setting in one line."""
    try:
        return settings_class(**values)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_line(dict(problem)) for problem in error.errors())) from None


def _keys(given: SecretStr) -> tuple[bytes, ...]:
    """The keys of a list with commas."""
    return tuple(key.strip().encode() for key in given.get_secret_value().split(",") if key.strip())


def _ascii_host(host: str) -> str:
    try:
        return parse_domain(host)
    except AddressError as error:
        raise ValueError(f"names no usable host: {error.reason}") from None


def _line(problem: dict[str, Any]) -> str:
    name = "_".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{PREFIX}{name.upper()}: {text}" if name else text
