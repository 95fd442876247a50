"""The tables of what comes to the feedback service: reports after the 250, and the emails of `doctor probe`."""

from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, String, Uuid
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

from shared.ledger.models import LONGEST_REPLY

COMPLAINTS = sql("kind = 'complained'")
"""Of a partial index. A statement uses it only if it has the same words."""


class Report(SQLModel, table=True):
    """A report. See shared.ledger.reports. Only a verified one has a recipient, and has changed anything."""

    __table_args__ = (
        Index("report_by_campaign", "campaign_id", "kind", "recipient_id"),
        Index("report_by_recipient", "recipient_id"),
        Index("report_by_project", "project_id", "id"),
        Index("report_by_address", "project_id", "email_key"),
        Index("report_complaints", "at", postgresql_where=COMPLAINTS, sqlite_where=COMPLAINTS),
    )
    id: int = Field(
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        default=None,
    )
    #: Of what came in: the same report comes again.
    digest: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: None: not known, because the report is not verified.
    project_id: UUID | None = Field(
        sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), nullable=True), default=None
    )
    campaign_id: UUID | None = Field(
        sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), nullable=True), default=None
    )
    recipient_id: int | None = Field(sa_column=Column(BigInteger), default=None)
    #: See shared.feedback.meaning.Kind.
    kind: str = Field(sa_column=Column(String(16), nullable=False))
    #: A token of ours, or a provider's signature, proves whom it is about.
    verified: bool = Field(sa_column=Column(Boolean, nullable=False))
    #: The recipient; of an unverified report, the address that it names.
    email: str | None = Field(sa_column=Column(String(320)), default=None)
    email_key: str | None = Field(sa_column=Column(String(320)), default=None)
    #: How it came in: `mail`, `api`, `ses`, or `link` (the unsubscribe link).
    via: str = Field(sa_column=Column(String(8), nullable=False))
    #: Who reports: a server or a provider.
    reporter: str = Field(sa_column=Column(String(200), nullable=False, server_default=""), default="")
    code: int | None = Field(sa_column=Column(Integer), default=None)
    enhanced_code: str | None = Field(sa_column=Column(String(16)), default=None)
    #: Of bounces and delays: what the server means, and what follows (shared.faults).
    why: str | None = Field(sa_column=Column(String(100)), default=None)
    consequence: str | None = Field(sa_column=Column(String(16)), default=None)
    text: str = Field(sa_column=Column(String(LONGEST_REPLY), nullable=False, server_default=""), default="")


class ComplaintRate(SQLModel, table=True):
    """Emails of a project that a provider took on a day, and how many of them were called spam: see
    shared.ledger.complaints."""

    __tablename__ = "complaint_rate"
    project_id: UUID = Field(sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), primary_key=True))
    #: Of the table of shared.providers, or a domain.
    provider: str = Field(sa_column=Column(String(255), primary_key=True))
    #: The day on which the emails were sent, in days since 1970 (UTC).
    day: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    complaints: int = Field(sa_column=Column(Integer, nullable=False))
    #: Counted up to a bound above which there is no alert.
    delivered: int = Field(sa_column=Column(Integer, nullable=False))
    judged_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: When a person resumed a campaign that it held: it holds no other.
    lifted_at: float | None = Field(sa_column=Column(Float(53)), default=None)


class Probe(SQLModel, table=True):
    """An email of `doctor probe`, announced before it is sent. See shared.ledger.probes."""

    token: str = Field(sa_column=Column(String(32), primary_key=True))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: None, like the following: it is awaited.
    arrived_at: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: `smtp`: from the relay itself. `lmtp`: from a mail server of ours, which took it from the relay.
    protocol: str | None = Field(sa_column=Column(String(4)), default=None)
    #: The other end of the connection.
    peer: str | None = Field(sa_column=Column(String(64)), default=None)
    helo: str | None = Field(sa_column=Column(String(255)), default=None)
    #: MAIL FROM; empty for `<>`.
    sender: str | None = Field(sa_column=Column(String(320)), default=None)
    message: bytes | None = Field(sa_column=Column(LargeBinary), default=None)
