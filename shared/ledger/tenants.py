"""The tables of who may do what: domains of projects, sessions of the page, and what was done by whom."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, String, Uuid
from sqlmodel import Field, SQLModel


def _project_key() -> Any:
    return Field(sa_column=Column(Uuid, ForeignKey("project.id", ondelete="CASCADE"), nullable=False, index=True))


class Domain(SQLModel, table=True):
    """A domain that only one project may send from. See shared.ledger.domains."""

    #: Lower case, as A-labels.
    name: str = Field(sa_column=Column(String(255), primary_key=True))
    project_id: UUID = _project_key()
    #: `operator`, `dns` (a TXT record proved it), or `used` (by campaigns before domains belonged to projects).
    #: Takes bounces of mail from this domain, in the same form. None: they go to the address in From.
    bounce_domain: str | None = Field(sa_column=Column(String(255)), default=None)
    made_by: str = Field(sa_column=Column(String(16), nullable=False))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))


class PageSession(SQLModel, table=True):
    """A person who is signed in to the page. It is over at `expires_at`, at `ended_at`, or with its key."""

    __tablename__ = "page_session"
    #: The nonce of the cookie.
    id: str = Field(sa_column=Column(String(64), primary_key=True))
    key_id: UUID = Field(
        sa_column=Column(Uuid, ForeignKey("api_key.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    started_at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: The last request, to the minute.
    seen_at: float = Field(sa_column=Column(Float(53), nullable=False))
    expires_at: float = Field(sa_column=Column(Float(53), nullable=False))
    ended_at: float | None = Field(sa_column=Column(Float(53)), default=None)
    #: Where the sign-in came from: the address that the connection or a trusted proxy gives.
    address: str = Field(sa_column=Column(String(64), nullable=False))
    #: What the browser calls itself, cut.
    browser: str = Field(sa_column=Column(String(200), nullable=False))


class AuditEntry(SQLModel, table=True):
    """Who did what. No role of a service may change or delete an entry. See shared.ledger.audit."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index("audit_by_project", "project_id", "id"), Index("audit_by_time", "at"))
    id: int = Field(
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        default=None,
    )
    at: float = Field(sa_column=Column(Float(53), nullable=False))
    #: None: it is about the installation, or the project is not known.
    project_id: UUID | None = Field(sa_column=Column(Uuid), default=None)
    #: `api`, `page` or `command`.
    via: str = Field(sa_column=Column(String(16), nullable=False))
    #: The id of a key; of a command, the user of the operating system.
    actor: str = Field(sa_column=Column(String(200), nullable=False))
    #: The name of the key; of a command, the machine.
    actor_name: str = Field(sa_column=Column(String(200), nullable=False))
    #: Such as `POST /v1/campaigns/{campaign_id}/send`, or `key create`.
    action: str = Field(sa_column=Column(String(200), nullable=False))
    #: On what, such as `campaign_id=0190...`. Never a recipient's address.
    target: str = Field(sa_column=Column(String(500), nullable=False))
    #: Where the request came from; empty for a command.
    address: str = Field(sa_column=Column(String(64), nullable=False))
    #: `done`, or `refused: ` and why.
    result: str = Field(sa_column=Column(String(100), nullable=False))
