"""The tables of webhooks. See shared.ledger.webhooks."""

from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Integer, String, Uuid
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

from shared.ledger.models import LONGEST_REPLY


class WebhookEndpoint(SQLModel, table=True):
    """A URL that gets the events of its project, in order."""

    __tablename__ = "webhook_endpoint"
    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    project_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    url: str = Field(sa_column=Column(String(2000), nullable=False))
    #: Types of events, separated by spaces. None: all.
    types: str | None = Field(sa_column=Column(String(2000)), default=None)
    #: `active`, `paused` by a person, or `disabled` because it failed for too long.
    state: str = Field(sa_column=Column(String(16), nullable=False))
    #: Events up to this position are settled: accepted, set aside, or of no type it wants.
    cursor: int = Field(sa_column=Column(BigInteger, nullable=False))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: The first failure since the last success.
    failing_since: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Failures since the last success.
    failures: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    next_attempt_at: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Of the newest POST: its HTTP status, if it was answered, and what was wrong with it.
    last_status: int | None = Field(sa_column=Column(Integer), default=None)
    last_error: str | None = Field(sa_column=Column(String(LONGEST_REPLY)), default=None)
    last_success_at: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Events set aside one after the other, since one was accepted.
    refused_in_a_row: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    #: Who delivers now, and until when without renewal; without an owner: when the last delivery ended.
    lease_owner: str | None = Field(sa_column=Column(String(64)), default=None)
    lease_until: float | None = Field(sa_column=Column(Float(53)), default=None)


class WebhookSecret(SQLModel, table=True):
    """A secret that signs for an endpoint. Only the service `webhooks` may read `secret`."""

    __tablename__ = "webhook_secret"
    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    endpoint_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    secret: str = Field(sa_column=Column(String(100), nullable=False))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: Rotated: it signs beside the new one until then.
    expires_at: float | None = Field(sa_column=Column(Float(53)), default=None)


class WebhookSetAside(SQLModel, table=True):
    """An event that an endpoint refused, alone."""

    __tablename__ = "webhook_set_aside"
    endpoint_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("webhook_endpoint.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, nullable=False, autoincrement=False))
    at: float = Field(sa_column=Column(Float(53), nullable=False))
    status: int = Field(sa_column=Column(Integer, nullable=False))
    error: str = Field(sa_column=Column(String(LONGEST_REPLY), nullable=False))
    #: A person asked for another try.
    again: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=sql("false")), default=False)
