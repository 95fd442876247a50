"""Limits of the project and of the relays."""

import math
from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.api.shapes.limits import LimitIn, LimitOut, WarmUp
from services.api.usecases.errors import NotFoundError
from shared.ledger import instances, rate_limits
from shared.ledger.database import clock
from shared.ledger.rate_limits import Limit, period_at, project_scope, relay_scope


async def list_limits(connection: AsyncConnection, project_id: UUID) -> list[LimitOut]:
    """The project's own and those of all relays."""
    found = await rate_limits.read_relays_and(connection, project_scope(project_id))
    now = await clock(connection)
    return [_shown(found[scope], now) for scope in sorted(found)]


async def put(connection: AsyncConnection, project_id: UUID, scope: str, given: LimitIn) -> LimitOut:
    """Sets all limits of `project` or `relay:NAME`."""
    full = _scope(project_id, scope)
    warmup = rate_limits.WarmUp(**given.warmup.model_dump()) if given.warmup else None
    await rate_limits.put_all(
        connection,
        full,
        emails_per_second=given.emails_per_second,
        emails_per_hour=given.emails_per_hour,
        emails_per_day=given.emails_per_day,
        warmup=warmup,
    )
    return _shown((await rate_limits.read(connection, [full]))[full], await clock(connection))


async def remove(connection: AsyncConnection, project_id: UUID, scope: str) -> None:
    """Removes all limits of `project` or `relay:NAME`. Raises NotFoundError if there is none."""
    if not await rate_limits.remove(connection, _scope(project_id, scope)):
        raise NotFoundError("such limit")


async def waiting_for(connection: AsyncConnection, project_ids: Collection[UUID], now: float) -> dict[UUID, str]:
    """By project: the cap that is used up, in words. A project with room is left out. `now` is the database's."""
    scopes = {project_scope(project_id): project_id for project_id in project_ids}
    found = await rate_limits.read(connection, scopes)
    return {
        scopes[scope]: f"the project's limits: {words}"
        for scope, limit in found.items()
        if (words := _words(limit, now)) is not None
    }


async def outlasting(
    connection: AsyncConnection, row: Row[Any], group: str, begins: float, deliver_by: float
) -> list[str]:
    """Which limits let fewer emails begin before `deliver_by` than the campaign has recipients, in sentences. Of the
    relays, those of its group count, as the senders name them."""
    own = project_scope(row.project_id)
    found = await rate_limits.read_relays_and(connection, own)
    project = found.pop(own, None)
    known = await instances.relays(connection) if found else {}
    of_group = [relay_scope(name) for name, its_group in known.items() if its_group == group]
    usable = of_group or [scope for scope in found if scope.removeprefix("relay:") not in known]
    room = sum(found[scope].emails_until(begins, deliver_by) if scope in found else math.inf for scope in usable)
    rate = row.emails_per_second
    rooms = {
        f"{rate} emails per second": math.inf if rate is None else rate * (deliver_by - begins),
        "the project's limits": math.inf if project is None else project.emails_until(begins, deliver_by),
        f"the limits of the relays{f' of group {group}' if group else ''}": room if usable else math.inf,
    }
    return [
        f"About {room:.0f} of {row.total} emails can begin before deliver_by, because of {words}. The rest expires."
        for words, room in rooms.items()
        if room < row.total
    ]


def _shown(limit: Limit, now: float) -> LimitOut:
    limit.begin(now)
    warmup = limit.warmup()
    return LimitOut(
        scope="project" if limit.scope.startswith("project:") else limit.scope,
        emails_per_second=limit.emails_per_second,
        emails_per_hour=limit.emails_per_hour,
        emails_per_day=limit.emails_per_day,
        warmup=warmup and WarmUp(start=warmup.start, growth_per_day=warmup.growth_per_day, until=warmup.until),
        cap_today=limit.day_cap(period_at(now).day),
        emails_this_hour=limit.hour_count,
        emails_today=limit.day_count,
        waiting_for=_words(limit, now),
    )


def _words(limit: Limit, now: float) -> str | None:
    full = limit.full(now)
    return None if full is None else f"{full[1]} is used up; more in {full[0] / 60:.0f} min"


def _scope(project_id: UUID, scope: str) -> str:
    """The scope in the ledger. Raises NotFoundError for another than `project` and `relay:NAME`."""
    if scope == "project":
        return project_scope(project_id)
    if scope.startswith("relay:") and len(scope) > len("relay:"):
        return scope
    raise NotFoundError("such limit")
