"""The tables of what is left of campaigns whose results were deleted. See shared.ledger.forgetting."""

from uuid import UUID

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, LargeBinary, Text, Uuid
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

UNDER_WAY = sql("ended_at IS NULL")


class ForgottenCampaign(SQLModel, table=True):
    """A campaign whose results are being deleted, or were. Its counts stay in its batches."""

    __tablename__ = "forgotten_campaign"
    __table_args__ = (
        Index("forgotten_under_way", "began_at", postgresql_where=UNDER_WAY, sqlite_where=UNDER_WAY),
        {"postgresql_with": {"fillfactor": 50}},
    )
    campaign_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("campaign.id", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    #: The retention that led to it.
    days: int = Field(sa_column=Column(Integer, nullable=False))
    #: Equal to `campaign.forgotten_at`.
    began_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: None: rows are still being deleted.
    ended_at: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Recipients up to this id are deleted.
    cursor: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=sql("0")), default=0)
    #: Rows deleted so far.
    recipients: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    reports: int = Field(sa_column=Column(Integer, nullable=False, server_default=sql("0")), default=0)
    #: JSON: a list of shared.ledger.forgetting.summary.Refusal, the most frequent first.
    refusals: str = Field(sa_column=Column(Text, nullable=False, server_default="[]"), default="[]")


class ForgottenPeople(SQLModel, table=True):
    """Recipients that were deleted together: enough for their unsubscribe links to keep working. See
    shared.ledger.forgetting.people."""

    __tablename__ = "forgotten_people"
    first_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False, nullable=False))
    last_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    #: No foreign key: such a campaign is never deleted, and deleting others would search this table.
    campaign_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    #: For each recipient its id and a keyed hash of its address.
    people: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
