"""Projects, keys, domains and sessions: as they come in, and as they are shown."""

import unicodedata
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from services.api.shapes.common import Body, Line, Moment, Shown
from shared.addresses import AddressError, parse_domain
from shared.scopes import Scope

MOST_DAYS = 36_500
MOST = 2**31 - 1
MOST_DOMAINS = 100


def _domain(value: str) -> str:
    try:
        return parse_domain(value)
    except AddressError as error:
        raise ValueError(error.reason) from None


def _visible(value: str) -> str:
    """A name that looks like another one is that one: no invisible characters, one form of each letter."""
    name = unicodedata.normalize("NFC", value).strip()
    if not name or not name.isprintable():
        raise ValueError("must be of visible characters")
    return name


def _sorted(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value


DomainName = Annotated[str, Field(max_length=1000, examples=["example.com"]), AfterValidator(_domain)]
Name = Annotated[Line, Field(min_length=1), AfterValidator(_visible)]


class ProjectIn(Body):
    name: Name = Field(examples=["shop"])


class ProjectPatch(Body):
    """The members to change."""

    name: Name | None = None
    sender_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{5,15}$",
        description="The last field of `Feedback-ID`: who sends. 5 to 15 characters. Null: `vashsender`.",
    )
    tests_per_hour: int | None = Field(None, ge=0, le=MOST, description="Null: the setting of that name.")
    open_imports: int | None = Field(None, ge=0, le=MOST, description="At once. Null: the setting of that name.")
    open_streams: int | None = Field(
        None, ge=0, le=MOST, description="Event streams at once on one API process. Null: the setting of that name."
    )
    retention_days: int | None = Field(
        None,
        ge=0,
        le=MOST_DAYS,
        description="Days after the end of a campaign for which its recipients and results are kept; then they are"
        " deleted for good. 0: for ever. Null: the setting of that name.",
    )


class ProjectOut(Shown):
    id: UUID
    name: str
    created_at: Moment
    closed_at: Moment | None = Field(description="From then on its keys are refused.")
    sender_id: str | None
    tests_per_hour: int | None = Field(description="Null: the setting of that name. So are the following.")
    open_imports: int | None
    open_streams: int | None
    retention_days: int | None = Field(description="Days for which results are kept. 0: for ever.")


class Projects(BaseModel):
    data: list[ProjectOut]
    next_cursor: None = None


class KeyIn(Body):
    name: Name = Field(examples=["website"])
    project_id: UUID | None = Field(None, description="Default: the project of the key that asks.")
    scopes: list[Scope] | None = Field(
        None, min_length=1, max_length=20, description="Default: all; `operator` only in the project `default`."
    )
    expires_days: float | None = Field(None, gt=0, le=MOST_DAYS, description="Days until it expires. Default: never.")
    domains: list[DomainName] | None = Field(
        None, min_length=1, max_length=MOST_DOMAINS, description="The only domains it may send from. Default: all."
    )


class RotateIn(Body):
    overlap_hours: float = Field(24.0, ge=0, le=8760, description="Hours for which the old key still works.")


class KeyOut(Shown):
    id: UUID
    name: str
    project_id: UUID
    project: str = Field(description="The project's name.")
    scopes: Annotated[list[Scope], BeforeValidator(_sorted)]
    sender_domains: list[str] | None = Field(description="The only domains it may send from. Null: all of the project.")
    created_at: Moment
    last_used_at: Moment | None = Field(description="To the quarter of an hour.")
    expires_at: Moment | None
    revoked_at: Moment | None


class MadeKeyOut(KeyOut):
    key: str = Field(description="The key itself. It cannot be shown again.", examples=["vs_..."])


class Keys(BaseModel):
    data: list[KeyOut]
    next_cursor: None = None


class DomainIn(Body):
    name: DomainName
    project_id: UUID | None = Field(None, description="For operators. Default: the project of the key that asks.")


class DomainPatch(Body):
    """The members to change."""

    bounce_domain: DomainName | None = Field(
        None,
        description="Takes bounces and unsubscribes of mail from this domain. It needs the same organizational domain."
        " Null: bounces go to the address in From.",
        examples=["bounces.example.com"],
    )


class DomainOut(Shown):
    name: str
    project_id: UUID
    project: str = Field(description="The project's name.")
    made_by: Literal["operator", "dns", "used"] = Field(
        description="`used`: campaigns were sent from it before domains belonged to projects."
    )
    created_at: Moment
    bounce_domain: str | None = Field(description="Takes bounces of its mail. Null: they go to the address in From.")


class Domains(BaseModel):
    data: list[DomainOut]
    next_cursor: None = None


class SessionOut(Shown):
    id: str
    key_id: UUID
    key: str = Field(description="The name of the key that the person signed in with.")
    project: str
    started_at: Moment
    seen_at: Moment = Field(description="The last request, to the minute.")
    expires_at: Moment
    address: str = Field(description="Where the sign-in came from.")
    browser: str


class Sessions(BaseModel):
    data: list[SessionOut]
    next_cursor: None = None


def made_key(shown: KeyOut, secret: str) -> MadeKeyOut:
    given: dict[str, Any] = shown.model_dump()
    return MadeKeyOut(**given, key=secret)
