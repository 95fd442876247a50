"""The ledger's tables. Moments are seconds since 1970 (UTC) by the database's clock."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    false,
)
from sqlalchemy import (
    text as sql,
)
from sqlmodel import Field, SQLModel
from uuid6 import uuid7

from shared.ledger.states import BatchState, CampaignStatus, RecipientStatus

# SQLite numbers rows only in a column that is exactly INTEGER PRIMARY KEY.
BigId = BigInteger().with_variant(Integer, "sqlite")

LONGEST_REPLY = 500
"""Characters of a reply, reason or other text for people that the ledger keeps."""

# The conditions of partial indexes, which do not grow with finished work: they answer what a clock asks every second.
# A statement uses them only if it has the same words: see batches.in_state and campaigns.not_closed.
LIVE_ONLY = sql("state IN ('waiting', 'released', 'sending')")
NOT_CLOSED = sql("status IN ('scheduled', 'queued', 'sending', 'paused', 'stopping')")
SCHEDULED = sql("status = 'scheduled'")
REOPENING = sql("reopen IS NOT NULL")
HASHED = sql("email = ''")
KEPT = sql("forgotten_at IS NULL")
NOT_ROLLED_UP: Any = {"postgresql_where": sql("NOT rolled_up"), "sqlite_where": sql("rolled_up = 0")}


def _moment(*, nullable: bool = True, **kwargs: Any) -> Any:
    return Field(sa_column=Column(Float(53), nullable=nullable, **kwargs), default=None if nullable else 0.0)


def _big_id() -> Any:
    return Field(sa_column=Column(BigId, primary_key=True, autoincrement=True), default=None)


def _campaign_key(**kwargs: Any) -> Any:
    return Field(sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), nullable=False, **kwargs))


def _project_key(**kwargs: Any) -> Any:
    return Field(sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), nullable=False, **kwargs))


def _sum() -> Any:
    return Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)


def _count() -> Any:
    return Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)


class Project(SQLModel, table=True):
    """See shared.ledger.projects, and shared.ledger.tenants for what belongs to it beside campaigns."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str = Field(sa_column=Column(String(200), nullable=False, unique=True))
    created_at: float = _moment(nullable=False)
    #: From then on its keys are refused.
    closed_at: float | None = _moment()
    #: The last field of Feedback-ID: who sends. None: `vashsender`.
    sender_id: str | None = Field(sa_column=Column(String(15)), default=None)
    #: Limits of the API. None: the setting of the same name.
    tests_per_hour: int | None = Field(sa_column=Column(Integer), default=None)
    open_imports: int | None = Field(sa_column=Column(Integer), default=None)
    open_streams: int | None = Field(sa_column=Column(Integer), default=None)
    #: Days for which results of campaigns that ended are kept. 0: for ever. None: the setting of the same name.
    retention_days: int | None = Field(sa_column=Column(Integer), default=None)


class ApiKey(SQLModel, table=True):
    """See shared.ledger.keys."""

    __tablename__ = "api_key"
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    project_id: UUID = _project_key(index=True)
    name: str = Field(sa_column=Column(String(200), nullable=False))
    digest: str = Field(sa_column=Column(String(64), nullable=False, unique=True))  # of the secret
    created_at: float = _moment(nullable=False)
    revoked_at: float | None = _moment()
    expires_at: float | None = _moment()
    #: Seconds for which it was made, and for which the one is that it is rotated to. None: for ever.
    lives_seconds: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: To the quarter of an hour.
    last_used_at: float | None = _moment()
    #: Separated by spaces. None: made by release 0.1.0, which has no scopes, so every one.
    scopes: str | None = Field(sa_column=Column(String(500)), default=None)
    #: Separated by spaces: the only domains it may send from. None: every domain of the project.
    sender_domains: str | None = Field(sa_column=Column(Text), default=None)


class Campaign(SQLModel, table=True):
    """The counts by status are the sums over its batches (see shared.ledger.counts); a recipient that no batch covers
    yet is pending."""

    __table_args__ = (
        Index("campaign_by_project", "project_id", "id"),
        Index("campaign_by_status", "status", "id"),
        Index("campaign_not_closed", "id", postgresql_where=NOT_CLOSED, sqlite_where=NOT_CLOSED),
        Index("campaign_starts", "scheduled_at", postgresql_where=SCHEDULED, sqlite_where=SCHEDULED),
        Index("campaign_deadlines", "deliver_by", postgresql_where=NOT_CLOSED, sqlite_where=NOT_CLOSED),
        Index("campaign_reopening", "id", postgresql_where=REOPENING, sqlite_where=REOPENING),
        Index("campaign_by_end", "finished_at"),
        Index("campaign_kept", "finished_at", postgresql_where=KEPT, sqlite_where=KEPT),
    )
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    project_id: UUID = _project_key()
    name: str = Field(sa_column=Column(String(200), nullable=False))
    from_email: str = Field(sa_column=Column(String(320), nullable=False))
    from_name: str = Field(sa_column=Column(String(200), nullable=False, server_default=""), default="")
    reply_to: str | None = Field(sa_column=Column(String(320)), default=None)
    relay_group: str | None = Field(sa_column=Column(String(40)), default=None)  # None: that of the domain of its From
    reply_to_name: str | None = Field(sa_column=Column(String(200)), default=None)
    envelope_from: str = Field(sa_column=Column(String(320), nullable=False))
    content: str = Field(sa_column=Column(Text, nullable=False))  # JSON: see shared.content
    status: str = Field(sa_column=Column(String(16), nullable=False), default=CampaignStatus.DRAFT.value)
    stop_as: str | None = Field(sa_column=Column(String(16)), default=None)  # the status after `stopping`
    reopen: str | None = Field(sa_column=Column(String(16)), default=None)  # see services.dispatcher.reopening
    reason: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    blocked_by: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    breaker: str | None = Field(sa_column=Column(String(16)), default=None)  # paused it; resume asks what to do
    list_breaker_off: bool | None = Field(sa_column=Column(Boolean), default=None)  # a person resumed nevertheless
    delivery: str = Field(sa_column=Column(String(16), nullable=False), default="at_least_once")
    emails_per_second: float | None = Field(sa_column=Column(Float(53)), default=None)
    priority: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    max_retries: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("3")), default=3)
    retry_delay_seconds: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("60")), default=60)
    test_of: UUID | None = Field(sa_column=Column(Uuid), default=None)
    total: int = _count()  # recipients
    #: The last recipient id that a batch covers.
    cursor: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)
    created_at: float = _moment(nullable=False)
    scheduled_at: float | None = _moment()
    deliver_by: float | None = _moment()
    started_at: float | None = _moment()
    finished_at: float | None = _moment()
    #: From then on it has no results: see shared.ledger.forgetting. Never unset.
    forgotten_at: float | None = _moment()


class Recipient(SQLModel, table=True):
    """`status` is in no index, so that PostgreSQL records a result as a heap-only update, for which half of each page
    is left free. Lists by status go through the batches, whose counts say which ranges have such rows."""

    __table_args__ = (
        UniqueConstraint("campaign_id", "email_key", name="recipient_once"),
        Index("recipient_by_campaign", "campaign_id", "id"),
        {"postgresql_with": {"fillfactor": 50}, "sqlite_autoincrement": True},
    )
    id: int = _big_id()
    campaign_id: UUID = _campaign_key()
    import_id: int | None = Field(sa_column=Column(BigInteger), default=None)
    #: Empty: the person was erased.
    email: str = Field(sa_column=Column(String(320), nullable=False))
    email_key: str = Field(sa_column=Column(String(320), nullable=False))
    data: str | None = Field(sa_column=Column(Text), default=None)  # the values of the fields, as JSON
    status: str = Field(
        sa_column=Column(String(16), nullable=False, server_default="pending"), default=RecipientStatus.PENDING.value
    )
    attempts: int = _count()
    next_attempt_at: float | None = _moment()
    intent_at: float | None = _moment()  # at_most_once: set before the first byte of the body leaves
    smtp_code: int | None = Field(sa_column=Column(Integer), default=None)
    enhanced_code: str | None = Field(sa_column=Column(String(16)), default=None)
    reply: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    relay: str | None = Field(sa_column=Column(String(200)), default=None)
    queue_id: str | None = Field(sa_column=Column(String(200)), default=None)
    sent_at: float | None = _moment()


class Batch(SQLModel, table=True):
    """A range of recipient ids of one campaign. A recipient belongs to at most one batch, forever.

    The row is the lock of its range: a transaction that changes a recipient in it updates this row first.
    The counts are those of its recipients by status."""

    __table_args__ = (
        UniqueConstraint("campaign_id", "first_id", name="batch_range"),
        Index("batch_live", "state", "due_at", postgresql_where=LIVE_ONLY, sqlite_where=LIVE_ONLY),
        Index("batch_live_of", "campaign_id", "state", "due_at", postgresql_where=LIVE_ONLY, sqlite_where=LIVE_ONLY),
        Index("batch_owner", "owner", postgresql_where=sql("state = 'sending'")),
        Index("batch_not_rolled_up", "campaign_id", **NOT_ROLLED_UP),
        {"postgresql_with": {"fillfactor": 50}},
    )
    id: int = _big_id()
    campaign_id: UUID = _campaign_key()
    first_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    size: int = Field(sa_column=Column(Integer, nullable=False))
    state: str = Field(sa_column=Column(String(16), nullable=False), default=BatchState.WAITING.value)
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("1")), default=1)
    owner: str | None = Field(sa_column=Column(String(200)), default=None)
    lease_until: float | None = _moment()
    due_at: float = _moment(nullable=False)
    released_at: float | None = _moment()
    claimed_at: float | None = _moment()
    dated_at: float | None = _moment()  # the first claim: the Date header of every attempt
    #: Set with `dated_at`: its Message-IDs are mail tokens. None: a sender of release 0.1.0 has begun to send it.
    has_tokens: bool | None = Field(sa_column=Column(Boolean), default=None)
    #: With a rate limit: the seconds over which its emails are spread. 0: its rows only wait for their provider.
    span_seconds: float | None = Field(sa_column=Column(Float(53)), default=None)
    rescues: int = _count()
    #: Points of rescues since it last made progress: see shared.ledger.batches.MOST_FRUITLESS.
    fruitless: int = _count()
    #: Of its counts at the last rescue: another number since then is progress.
    rescued_mark: int | None = Field(sa_column=Column(BigInteger), default=None)
    pending: int = _count()
    deferred: int = _count()
    sent: int = _count()
    failed: int = _count()
    suppressed: int = _count()
    expired: int = _count()
    cancelled: int = _count()
    unknown: int = _count()
    gone: int = _count()  # of the failed and of the bounced: there is no such mailbox
    #: Of the sent: reports that came back, each recipient once. See shared.ledger.reports.
    bounced: int = _count()
    complained: int = _count()
    unsubscribed: int = _count()
    #: Its counts are in the campaign's rollup, so they must not change: see shared.ledger.rollups.
    rolled_up: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=false()), default=False)


class Rollup(SQLModel, table=True):
    """The sums of a campaign's batches that are `rolled_up`: the columns have the names of those of a batch."""

    __table_args__ = ({"postgresql_with": {"fillfactor": 50}},)
    campaign_id: UUID = _campaign_key(primary_key=True)
    size: int = _sum()
    rescues: int = _sum()
    pending: int = _sum()
    deferred: int = _sum()
    sent: int = _sum()
    failed: int = _sum()
    suppressed: int = _sum()
    expired: int = _sum()
    cancelled: int = _sum()
    unknown: int = _sum()
    gone: int = _sum()
    bounced: int = _sum()
    complained: int = _sum()
    unsubscribed: int = _sum()


class Import(SQLModel, table=True):
    id: int = _big_id()
    campaign_id: UUID = _campaign_key(index=True)
    format: str = Field(sa_column=Column(String(16), nullable=False))
    state: str = Field(sa_column=Column(String(16), nullable=False), default="open")
    lines: int = _count()
    accepted: int = _count()
    duplicates: int = _count()
    invalid: int = _count()
    #: A JSON list of at most 1000 `{line, error, value?}`.
    problems: str = Field(sa_column=Column(Text, nullable=False, server_default="[]"), default="[]")
    error: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    first_id: int | None = Field(sa_column=Column(BigInteger), default=None)
    last_id: int | None = Field(sa_column=Column(BigInteger), default=None)
    created_at: float = _moment(nullable=False)
    updated_at: float = _moment(nullable=False)
    finished_at: float | None = _moment()
    #: Renewed by the process that reads it; NULL if release 0.1.0 did, which has no leases.
    lease_until: float | None = _moment()
    #: Of the request that brings it.
    idempotency_key: str | None = Field(sa_column=Column(String(200)), default=None)


class Suppression(SQLModel, table=True):
    __table_args__ = (
        UniqueConstraint("project_id", "email_key", name="suppression_once"),
        Index("suppression_hashed", "project_id", postgresql_where=HASHED, sqlite_where=HASHED),
    )
    id: int = _big_id()
    project_id: UUID = _project_key()
    #: Empty: the address is erased, and `email_key` is its hash (shared.ledger.hashed).
    email: str = Field(sa_column=Column(String(320), nullable=False))
    email_key: str = Field(sa_column=Column(String(320), nullable=False))
    reason: str = Field(sa_column=Column(String(32), nullable=False))  # unsubscribed, bounced, manual, complained
    detail: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    campaign_id: UUID | None = Field(sa_column=Column(Uuid), default=None)
    #: A tripped breaker doubts it, so it does not count until a person decides.
    provisional: bool | None = Field(sa_column=Column(Boolean), default=None)
    created_at: float = _moment(nullable=False)


class RelayRefusals(SQLModel, table=True):
    """The newest results of a campaign at a relay that refuses nearly everything. See shared.ledger.breakers."""

    __tablename__ = "relay_refusals"
    campaign_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    relay: str = Field(sa_column=Column(String(200), primary_key=True))
    recent: str = Field(sa_column=Column(Text, nullable=False))  # JSON: a list of shared.faults.breakers.Seen
    reply: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)  # the newest refusal
    list_domains: int | None = Field(sa_column=Column(Integer), default=None)  # of the list, once they were counted
    since: float | None = _moment()  # tripped: from when on its refusals are in doubt
    tripped_at: float | None = _moment()


class SpreadRefusals(SQLModel, table=True):
    """The newest refusals of a campaign's content or sender. See shared.ledger.spread."""

    __tablename__ = "spread_refusals"
    campaign_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    recent: str = Field(sa_column=Column(Text, nullable=False))  # JSON: a list of shared.faults.spread.Refused
    reply: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)  # the widespread refusal
    #: Recipients that had been sent to when counting began.
    sent_before: int | None = Field(sa_column=Column(Integer), default=None)
    tripped_at: float | None = _moment()


class Timeline(SQLModel, table=True):
    """What happened to a campaign, in sentences. See shared.ledger.timeline."""

    __table_args__ = (Index("timeline_by_campaign", "campaign_id", "id"),)
    id: int = _big_id()
    campaign_id: UUID = _campaign_key()
    at: float = _moment(nullable=False)
    last_at: float = _moment(nullable=False)
    kind: str = Field(sa_column=Column(String(32), nullable=False))
    text: str = Field(sa_column=Column(String(LONGEST_REPLY), nullable=False))
    times: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("1")), default=1)


class ProgressPoint(SQLModel, table=True):
    """The progress of a campaign at one moment. See shared.ledger.history."""

    __tablename__ = "progress_point"
    campaign_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    at: float = Field(sa_column=Column(Float(53), primary_key=True, nullable=False))
    sent: int = _count()
    failed: int = _count()


class IdempotencyKey(SQLModel, table=True):
    __tablename__ = "idempotency_key"
    project_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    key: str = Field(sa_column=Column(String(200), primary_key=True))
    request_digest: str = Field(sa_column=Column(String(64), nullable=False))
    status_code: int | None = Field(sa_column=Column(Integer), default=None)  # None while the first request runs
    response: str | None = Field(sa_column=Column(Text), default=None)
    created_at: float = _moment(nullable=False)


class ServiceInstance(SQLModel, table=True):
    """A running process. The watchdog writes senders, from their heartbeats; the others write themselves."""

    __tablename__ = "service_instance"
    id: str = Field(sa_column=Column(String(200), primary_key=True))
    service: str = Field(sa_column=Column(String(32), nullable=False, index=True))
    host: str = Field(sa_column=Column(String(200), nullable=False))
    pid: int = Field(sa_column=Column(Integer, nullable=False))
    slot: str | None = Field(sa_column=Column(String(100)), default=None)  # the slot name of a sender
    slots: int = _count()  # the capacity of a sender
    draining: bool = Field(default=False)
    started_at: float = _moment(nullable=False)
    seen_at: float = _moment(nullable=False)
    detail: str = Field(sa_column=Column(Text, nullable=False, server_default="{}"), default="{}")


class RateLimit(SQLModel, table=True):
    """See shared.ledger.rate_limits."""

    __tablename__ = "rate_limit"
    #: `campaign:<id>`, `project:<id>` or `relay:<name>`.
    scope: str = Field(sa_column=Column(String(200), primary_key=True))
    #: At least `rate_limits.NO_RATE`: no limit per second.
    emails_per_second: float = Field(sa_column=Column(Float(53), nullable=False))
    #: Version 0.1.0 planned batches with it.
    free_at: float = _moment(nullable=False)
    #: When the next email may begin, after those for which senders have reserved room.
    next_at: float = Field(sa_column=Column(Float(53), nullable=False, server_default="0"), default=0.0)
    #: Emails in one hour or day of UTC, at most.
    emails_per_hour: int | None = Field(sa_column=Column(Integer), default=None)
    emails_per_day: int | None = Field(sa_column=Column(Integer), default=None)
    #: The hour and the day, counted from 1970, of the last reservation, and the emails reserved in it.
    hour: int = _count()
    hour_count: int = _count()
    day: int = _count()
    day_count: int = _count()
    #: Warm-up: emails on its first day, the factor for each further day, the emails per day at which it is over, and
    #: its first day.
    warmup_start: int | None = Field(sa_column=Column(Integer), default=None)
    warmup_growth: float | None = Field(sa_column=Column(Float(53)), default=None)
    warmup_until: int | None = Field(sa_column=Column(Integer), default=None)
    warmup_day: int | None = Field(sa_column=Column(Integer), default=None)


class ProviderShare(SQLModel, table=True):
    """What one sender may have in flight to a provider over a relay. See shared.ledger.provider_shares."""

    __tablename__ = "provider_share"
    relay: str = Field(sa_column=Column(String(200), primary_key=True, nullable=False))
    provider: str = Field(sa_column=Column(String(200), primary_key=True, nullable=False))
    owner: str = Field(sa_column=Column(String(200), primary_key=True, nullable=False))
    emails: int = _count()
    lease_until: float = _moment(nullable=False)


class Bookmark(SQLModel, table=True):
    """How far long work has come. See shared.ledger.bookmarks."""

    name: str = Field(sa_column=Column(String(200), primary_key=True))
    value: str = Field(sa_column=Column(Text, nullable=False))  # JSON
    at: float = _moment(nullable=False)


class SendingFact(SQLModel, table=True):
    """What a sender says about how mail leaves. See shared.ledger.sending_facts."""

    __tablename__ = "sending_fact"
    #: `dkim` or `egress`.
    kind: str = Field(sa_column=Column(String(16), primary_key=True, nullable=False))
    #: The domain that is signed for, or the relay.
    name: str = Field(sa_column=Column(String(255), primary_key=True, nullable=False))
    #: The selector and the public key (base64 of DER); the addresses.
    value: str = Field(sa_column=Column(Text, nullable=False))
    at: float = _moment(nullable=False)


DEFAULT_PROJECT = UUID(int=1)
"""The project `default`, which the first migration creates."""
