"""What a request does, for the audit: noted in the first transaction that it commits, so that no change is without its
entry and no entry without its change."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.ledger import audit
from shared.ledger.audit import Actor


@dataclass(slots=True)
class Act:
    """One request that may change something."""

    actor: Actor
    project_id: UUID
    #: Such as `POST /v1/campaigns/{campaign_id}/send`.
    action: str
    #: What it is done to, such as `campaign_id=0190...`.
    targets: list[str] = field(default_factory=list)
    is_noted: bool = False

    async def note(self, connection: AsyncConnection, result: str = audit.DONE) -> None:
        await audit.record(
            connection,
            self.actor,
            self.action,
            target=" ".join(self.targets),
            project_id=self.project_id,
            result=result,
        )
        self.is_noted = True


_current: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def doing(act: Act | None) -> Iterator[None]:
    """Transactions in this block belong to the act; with None to none, such as those that only claim a key."""
    before = _current.set(act)
    try:
        yield
    finally:
        _current.reset(before)


def about(**targets: object) -> None:
    """Says what the current act is done to, beside what its path says. Call it before the transaction ends, and never
    with a recipient's address."""
    act = _current.get()
    if act is not None:
        act.targets += [f"{name}={value}" for name, value in targets.items()]


async def note_current(connection: AsyncConnection) -> None:
    """Notes the current act, unless it is noted already. The ledger calls it before each commit."""
    act = _current.get()
    if act is not None and not act.is_noted:
        await act.note(connection)
