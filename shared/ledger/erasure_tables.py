"""The tables of erased people: erasures, and the secret of the hashes that keep erased people suppressed."""

from uuid import UUID

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, Uuid
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

UNFINISHED = sql("finished_at IS NULL")
"""Of a partial index. A statement uses it only if it has the same words."""


class Erasure(SQLModel, table=True):
    """The erasure of one person from one project. See services.api.usecases.erasure."""

    __table_args__ = (
        UniqueConstraint("project_id", "hashed_key", name="erasure_once"),
        Index("erasure_unfinished", "asked_at", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    )
    id: int = Field(
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        default=None,
    )
    project_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), nullable=False))
    #: See shared.ledger.hashed.key_of.
    hashed_key: str = Field(sa_column=Column(String(80), nullable=False))
    #: The address and its key, until it is finished.
    email: str | None = Field(sa_column=Column(String(320)), default=None)
    email_key: str | None = Field(sa_column=Column(String(320)), default=None)
    #: What is searched now: see services.api.usecases.erasure.PHASES.
    phase: str = Field(sa_column=Column(String(16), nullable=False))
    #: The last id of that phase that was searched.
    cursor: str | None = Field(sa_column=Column(String(40)), default=None)
    #: Rows of recipients that were blanked.
    recipients: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    asked_at: float = Field(sa_column=Column(Float(53), nullable=False))
    finished_at: float | None = Field(sa_column=Column(Float(53)), default=None)


class HashSecret(SQLModel, table=True):
    """The secret of the keyed hashes, sealed for one key of the installation. See shared.ledger.hashed."""

    __tablename__ = "hash_secret"
    #: Names the key that opens it.
    sealed_for: str = Field(sa_column=Column(String(32), primary_key=True))
    sealed: str = Field(sa_column=Column(Text, nullable=False))
    #: When a process last had that key.
    seen_at: float = Field(sa_column=Column(Float(53), nullable=False))
