"""The tables of what projects are told: their streams of events, and the outbox. See shared.ledger.outbox."""

from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Text, Uuid
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

from shared.ledger.models import BigId

UNPLACED = sql("position IS NULL")


class EventStream(SQLModel, table=True):
    """The events of one project. A project without a row never wanted any."""

    __tablename__ = "event_stream"
    project_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    #: A person asked for events, whether or not there is an endpoint.
    enabled: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=sql("false")), default=False)
    #: Facts are written: it is enabled, or the project has an endpoint.
    wanted: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=sql("false")), default=False)
    #: Of the newest event that has a position; positions begin with 1.
    last_position: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)
    #: Events up to this position have been published to the broker.
    published_position: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)
    #: Who publishes them now, and until when without renewal.
    publisher: str | None = Field(sa_column=Column(String(64)), default=None)
    publisher_until: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Events up to this position are past their retention and deleted.
    forgotten_position: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)


class Outbox(SQLModel, table=True):
    """The facts of one project in one transaction."""

    __table_args__ = (
        Index("outbox_unplaced", "project_id", "id", postgresql_where=UNPLACED, sqlite_where=UNPLACED),
        Index("outbox_by_position", "project_id", "position"),
        {"sqlite_autoincrement": True},
    )
    id: int = Field(sa_column=Column(BigId, primary_key=True, autoincrement=True), default=None)
    #: No foreign key: it would lock the project with each group commit.
    project_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: Of its first fact; the others follow. None until it is placed.
    position: int | None = Field(sa_column=Column(BigInteger), default=None)
    #: How many facts it has.
    size: int = Field(sa_column=Column(Integer, nullable=False))
    facts: str = Field(sa_column=Column(Text, nullable=False))  # JSON; see shared.ledger.outbox.unpack
